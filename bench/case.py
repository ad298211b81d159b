"""The call that a cost cell measures: its inputs, its modules, one function without arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bench.cell import Cell, Plugin, derive_seed
from bench.model import CLASSES, VOCAB, attention_layers, backends, build_model, build_task
from bench.training.precision import Precision
from methods.registry import Attention, Mixer, grouped, queries_as_tokens
from tasks.registry import IGNORE


@dataclass
class Case:
    """`call` runs once; `module` holds the parameters. state_bytes: of a decoding state, spare room aside.

    `forward` is the first half of a training call: what it returns keeps alive all that the backward needs.
    """

    call: Callable[[], object]
    module: nn.Module
    inputs: list[Tensor]
    tokens: int
    state_bytes: int | None = None
    forward: Callable[[], object] | None = None

    @property
    def backend(self) -> str:
        """What computed the last call."""
        return backends(self.module)

    @property
    def inputs_bytes(self) -> int:
        """Bytes of the inputs."""
        return sum(tensor.nbytes for tensor in self.inputs)

    @property
    def parameters_bytes(self) -> int:
        """Bytes of parameters and buffers, shared ones once."""
        held = {id(part): part.nbytes for part in (*self.module.parameters(), *self.module.buffers())}
        return sum(held.values())


def build_case(cell: Cell, method: Plugin, inputs: list[Tensor] | None = None) -> Case:
    """The cell's call with `method` in it (the cell's own, or the baseline's).

    `inputs` are those of another case of the cell: two cases that are compared must read the very same
    memory, since where it lies makes a difference of a percent or two.
    """
    if cell.level == "model":
        return _model_case(cell, method)
    tokens = cell.batch_size * cell.seq_len
    device, dtype = cell.hardware.device, getattr(torch, cell.hardware.dtype)
    attention = attention_layers(cell, method, 1)[0].to(device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(derive_seed(cell.seed, "inputs"))
    if cell.level == "core":
        module: nn.Module = attention
        if cell.mode == "decode":
            inputs = None  # another case's are its token and its state
        inputs = inputs or [_gaussian(shape, generator, device, dtype) for shape in cell.qkv_shapes]
    else:
        module = Mixer(attention).to(device=device, dtype=dtype)
        hidden = (cell.batch_size, cell.seq_len, cell.heads * cell.head_dim)
        inputs = inputs or [_gaussian(hidden, generator, device, dtype)]
    module.train(cell.mode == "train")
    if cell.mode == "decode":
        return _decode_case(cell, attention, inputs)
    run = _forward if cell.mode == "forward" else _forward_backward
    function = _compiled(module, cell)
    if cell.kv_heads is not None:
        function = partial(grouped, function)
    return Case(
        call=lambda: run(function, module, inputs),
        module=module,
        inputs=inputs,
        tokens=tokens,
        forward=(lambda: _graph(function, inputs)) if cell.mode == "train" else None,
    )


def _decode_case(cell: Cell, attention: Attention, inputs: list[Tensor]) -> Case:
    """One token after seq_len others, always the same: each call gets a copy of the state on the same memory."""
    q, k, v = inputs
    last_q, last_k, last_v = (tensor[:, :, -1:].contiguous() for tensor in (q, k, v))
    last_q = queries_as_tokens(last_q, cell.query_groups)
    with torch.no_grad():
        state = attention.start(cell.batch_size, q.device, q.dtype)
        state = attention.prefill(k[:, :, :-1], v[:, :, :-1], state)
        _, state = attention.step(
            last_q, last_k, last_v, state
        )  # leaves room for the next, which the copies share
    parts = state if isinstance(state, tuple) else vars(state).values()
    held = [part for part in parts if isinstance(part, Tensor)]

    def step() -> object:
        with torch.no_grad():
            return attention.step(last_q, last_k, last_v, copy.copy(state))

    return Case(
        call=step,
        module=attention,
        inputs=[last_q, last_k, last_v, *held],
        tokens=cell.batch_size,
        state_bytes=cell.batch_size * attention.state_size(cell.seq_len) * held[0].element_size(),
    )


def _gaussian(shape: tuple[int, ...], generator: torch.Generator, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)


def _compiled(module: nn.Module, cell: Cell) -> Callable[..., Tensor]:
    """The module, compiled where the cell asks for it."""
    compiled: Callable[..., Tensor] = torch.compile(module) if cell.hardware.compile else module
    return compiled


def _forward(function: Callable[..., Tensor], module: nn.Module, inputs: list[Tensor]) -> object:
    with torch.no_grad():
        return function(*inputs)


def _forward_backward(function: Callable[..., Tensor], module: nn.Module, inputs: list[Tensor]) -> object:
    leaves, out = _graph(function, inputs)
    # grad() rather than backward(): nothing accumulates from call to call
    return torch.autograd.grad(out, [*leaves, *module.parameters()], torch.ones_like(out), allow_unused=True)


def _graph(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    return leaves, function(*leaves)


def _model_case(cell: Cell, method: Plugin) -> Case:
    """A forward of the whole model, or a full training step with AdamW, on a task's batch or random tokens.

    Of a batch that is trained on in pieces, or by several processes, a step is that of one piece in one of them.
    """
    device = cell.hardware.device
    precision = Precision(device, cell.hardware.dtype)
    rows = cell.piece_rows
    task = build_task(cell)
    model = build_model(cell, method, task).to(device, precision.weights)
    generator = torch.Generator().manual_seed(derive_seed(cell.seed, "inputs"))
    if task is None:
        ids = torch.randint(VOCAB, (rows, cell.seq_len), generator=generator)
        targets = torch.randint(CLASSES, (rows,), generator=generator)
        masks: list[Tensor | None] = [None, None]
    else:
        examples = task.examples("train")
        batch = examples.rows(torch.randint(len(examples), (rows,), generator=generator))
        ids, targets = batch.tokens, batch.targets
        masks = [batch.padding_mask(), batch.global_mask]
    ids, targets = ids.to(device), targets.to(device)
    masks = [mask if mask is None else mask.to(device) for mask in masks]
    function = _compiled(model, cell)
    optimiser = torch.optim.AdamW(model.parameters())
    model.train(cell.mode == "train")

    def infer() -> object:
        with precision.autocast(), torch.no_grad():
            return function(ids, *masks)

    def loss_now() -> Tensor:
        with precision.autocast():
            return loss_of(function(ids, *masks), targets)

    def train() -> object:
        loss = loss_now()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return None

    training = cell.mode == "train"
    return Case(
        call=train if training else infer,
        module=model,
        inputs=[ids, targets],
        tokens=ids.numel(),
        forward=loss_now if training else None,
    )


def loss_of(logits: Tensor, targets: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Cross-entropy over the targets that count; logits `[..., classes]`, integer targets `[...]`.

    Half precision is computed in float32.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return nn.functional.cross_entropy(
        logits.flatten(0, -2).to(wide), targets.flatten().long(), ignore_index=IGNORE, reduction=reduction
    )
