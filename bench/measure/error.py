"""Approximation error: how far a method is from exact softmax attention on the same q, k, v.

On Gaussian q and k scaled to several norms, since every approximation fails sooner or later as logits grow; with a
task on those of each layer of a model that was trained on it (bench/measure/captured.py).
Methods whose keys are their queries (`shared_qk`) are compared with exact attention of that kind.
The effective attention matrix of a method that is linear in V is read out with V = identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.cell import Cell, derive_seed
from bench.measure.captured import Captured, capture
from bench.model import BASELINE_METHOD, attention_layers
from bench.training.loop import Progress
from methods.registry import Attention, groups_as_batch

ROWS = 256
"""Query rows of exact attention that are materialised at a time."""

TOP = 16
"""The heaviest keys of a row that `topk_recall` asks for."""

LEARNED = "not defined before training: the method has parameters of its own that must be learned"


def measure(cell: Cell, progress: Progress = lambda step, steps, note: None) -> dict[str, Any]:
    """`errors`: a dict a norm, or a layer of the trained model; of output and, for short inputs, matrix."""
    return _gaussian(cell) if cell.task is None else _trained(cell, progress)


def _gaussian(cell: Cell) -> dict[str, Any]:
    device, dtype = cell.hardware.device, getattr(torch, cell.hardware.dtype)
    method = attention_layers(cell, cell.method, 1)[0].to(device=device, dtype=dtype).eval()
    exact = attention_layers(cell, BASELINE_METHOD, 1)[0].to(device).eval()
    if method.capabilities.learned:
        return {"errors": [{"qk_norm": norm, "note": LEARNED} for norm in cell.measure.qk_norms]}
    rows: list[dict[str, Any]] = []
    for norm in cell.measure.qk_norms:
        generator = torch.Generator().manual_seed(derive_seed(cell.seed, "inputs"))
        drawn = [torch.randn(shape, generator=generator) for shape in cell.qkv_shapes]
        q, k, v = groups_as_batch(*(x.to(device=device, dtype=dtype) for x in drawn))
        given = Captured(q * norm, k * norm, v, None)
        rows.append({"qk_norm": norm, **compare(method, exact, given, cell.measure.attention_max_len)})
    return {"errors": rows, "backend": method.backend}


def _trained(cell: Cell, progress: Progress) -> dict[str, Any]:
    """One row a layer; the methods' layers are built as for a model, each with its own draw or schedule."""
    device, dtype = cell.hardware.device, getattr(torch, cell.hardware.dtype)
    layers, accuracy = capture(cell, progress)
    front = layers[0].q.shape[-2] - cell.seq_len  # a CLS, where the model has one
    built = attention_layers(cell, cell.method, len(layers), front)
    exact = attention_layers(cell, BASELINE_METHOD, 1, front)[0].to(device).eval()
    rows: list[dict[str, Any]] = []
    for index, (given, attention) in enumerate(zip(layers, built, strict=True)):
        method = attention.to(device=device, dtype=dtype).eval()
        row = {"layer": index, "qk_norm": given.scale, "exact_accuracy": accuracy}
        if method.capabilities.learned:
            rows.append({**row, "note": LEARNED})
        elif given.padding is not None and not method.capabilities.padding:
            rows.append({**row, "note": "not measured: the method takes no padding, and the task's rows have it"})
        else:
            q, k, v = (x.to(dtype) for x in (given.q, given.k, given.v))
            moved = Captured(q, k, v, given.padding)
            rows.append({**row, **compare(method, exact, moved, cell.measure.attention_max_len)})
    return {"errors": rows, "backend": built[0].backend}


def compare(method: Attention, exact: Attention, given: Captured, longest: int) -> dict[str, Any]:
    """The errors of a method on given inputs; rows and keys that are padding take no part.

    longest: the length up to which the effective matrix is read out, of the first row of the batch.
    """
    q, v, padding = given.q, given.v, given.padding
    shared = method.capabilities.shared_qk
    k = q if shared else given.k
    with torch.no_grad():
        inputs = q.float(), k.float(), v.float()
        want = target(method, *inputs, padding) if shared else exact(*inputs, key_padding_mask=padding)
        got, want = method(q, k, v, key_padding_mask=padding).double(), want.double()
        if padding is not None:
            got, want = (x.masked_fill(padding[:, None, :, None], 0.0) for x in (got, want))
        found: dict[str, Any] = {"output_error": relative(got, want), "spectral_error": spectral(got, want)}
        if not method.capabilities.linear_in_v:
            return {**found, "note": "no effective matrix: the method is not linear in v"}
        if q.shape[-2] > longest:
            return {**found, "note": f"no effective matrix: seq_len > measure.attention_max_len={longest}"}
        return {**found, **_matrix_errors(method, q, k, padding)}


def relative(got: Tensor, want: Tensor) -> float:
    """||got - want||_F / ||want||_F."""
    return float((got - want).norm() / want.norm())


def spectral(got: Tensor, want: Tensor) -> float:
    """Mean over batch and heads of ||got - want||_2 / ||want||_2, the spectral norms of `[N, D]` matrices."""
    return float((_largest(got - want) / _largest(want)).mean())


def _largest(matrix: Tensor) -> Tensor:
    """The largest singular value of `[..., N, D]`, by the small Gram matrix `[D, D]`."""
    squares: Tensor = torch.linalg.eigvalsh(matrix.transpose(-1, -2) @ matrix)
    return squares[..., -1].clamp_min(0).sqrt()


def target(method: Attention, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None = None) -> Tensor:
    """softmax(target_logits) v, some query rows at a time: exact attention as the method defines it."""
    outputs = []
    for i in range(0, q.shape[-2], ROWS):
        logits = method.target_logits(q[..., i : i + ROWS, :], k, i)
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None, :], float("-inf"))
        outputs.append(logits.softmax(-1).nan_to_num() @ v)  # a row with no key gives 0
    return torch.cat(outputs, dim=-2)


def effective_matrix(method: Attention, q: Tensor, k: Tensor, padding: Tensor | None = None) -> Tensor:
    """The N x N matrix A with method(q, k, v) = A v, read out column block by column block; `[H, N, N]`."""
    n, dim = q.shape[-2:]
    mask = None if padding is None else padding[:1]
    blocks = []
    for start in range(0, n, dim):
        width = min(dim, n - start)
        probe = torch.zeros_like(q[:1])
        probe[..., start + torch.arange(width), torch.arange(width)] = 1.0
        blocks.append(method(q[:1], k[:1], probe, key_padding_mask=mask)[0, ..., :width])
    return torch.cat(blocks, dim=-1)


def _matrix_errors(method: Attention, q: Tensor, k: Tensor, padding: Tensor | None) -> dict[str, Any]:
    """Errors of the effective matrix of the first batch row; those that are not defined have a note."""
    got = effective_matrix(method, q, k, padding).double()
    logits = method.target_logits(q[0].double(), k[0].double())
    if padding is not None:
        real = ~padding[0]
        got, logits = (x[:, real][:, :, real] for x in (got, logits))
    want = logits.softmax(dim=-1)
    errors = {
        "attention_error": relative(got, want),
        "row_tv": float((got - want).abs().sum(dim=-1).mean() / 2),
        "topk_recall": recall(got, want),
    }
    if bool((got < 0).any()):
        return {**errors, "note": "no row_kl: the effective matrix has negative entries"}
    if bool(((got > 0) & (want == 0)).any()):
        return {**errors, "note": "no row_kl: the effective matrix has entries where exact attention has none"}
    terms = torch.where(got > 0, got * (got / want).log(), 0.0)
    # a divergence is not negative; rounding can make it so where the two are equal
    return {**errors, "row_kl": max(float(terms.sum(dim=-1).mean()), 0.0)}


def recall(got: Tensor, want: Tensor, top: int = TOP) -> float:
    """Mean over rows of the share of a row's `top` heaviest keys that the method attends at all; `[H, N, N]` each.

    Of a row that sees fewer keys, all of them count.
    """
    weights, heaviest = want.topk(min(top, want.shape[-1]), dim=-1)
    real = weights > 0
    found = (got.gather(-1, heaviest) != 0) & real
    return float((found.sum(dim=-1) / real.sum(dim=-1)).double().mean())
