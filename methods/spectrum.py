"""How much of softmax attention a few singular directions hold: Linformer's spectrum analysis of a trained model.

Wang et al. 2020 (section 3.1, figure 1) take the context mapping matrices P = softmax(Q K^T / sqrt(D)) of
RoBERTa and plot the normalised cumulative singular values, and a heatmap of the value at index 128 of 512 over
layers and heads. The same for any encoder of this package, whatever its attention: P is computed from its q and k.

    curves = encoder_spectrum(encoder, tokens)     # [layers, heads, N]
    plot_spectrum(curves, "spectrum.png", index=128)

or, with the queries and keys of a model stored by `torch.save(capture(encoder, tokens), "qk.pt")`,

    python -m methods.spectrum qk.pt --out spectrum.png --index 128
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.base import Attention
from methods.ops.dense import allowed_keys, both, causal_mask, masked_softmax


class Captured(NamedTuple):
    """What one attention saw: q and k `[B, H, N, D]`, padding bool `[B, N]` or None, and whether it is causal."""

    q: Tensor
    k: Tensor
    padding: Tensor | None
    causal: bool


def context_mapping_spectrum(
    q: Tensor, k: Tensor, *, key_padding_mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Cumulative singular values of softmax(q k^T / sqrt(D)), as shares of their sum.

    q, k `[B, H, N, D]`, mask bool `[B, N]`, True at padding -> `[B, H, N]` in float64, rising to 1 at the last
    index. Rows and columns of padding are left out. One SVD a matrix: O(N^3) time, N x N memory a head.
    """
    allowed = allowed_keys(key_padding_mask)
    if key_padding_mask is not None:
        allowed = both(allowed, ~key_padding_mask[:, None, :, None])
    if causal:
        allowed = both(allowed, causal_mask(q.shape[-2], q.device))
    curves = torch.empty(q.shape[:-1], dtype=torch.float64, device=q.device)
    for b in range(len(q)):
        logits = q[b].double() @ k[b].double().transpose(-1, -2) * q.shape[-1] ** -0.5
        own = None if allowed is None else allowed.expand(len(q), 1, *logits.shape[1:])[b]
        mapping = masked_softmax(logits, own)
        total = torch.linalg.svdvals(mapping).cumsum(-1)
        curves[b] = total / total[..., -1:].clamp(min=torch.finfo(torch.float64).tiny)
    return curves


def capture(model: nn.Module, *inputs: Any) -> list[Captured]:
    """The queries and keys of every `Attention` in `model`, in the order of their calls in `model(*inputs)`.

    Runs in evaluation mode without gradient; the model is left in the mode it was in. ValueError if the
    forward calls no `Attention`.
    """
    seen: list[Captured] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, Attention)
        q, k = (x.detach().clone() for x in args[:2])
        seen.append(Captured(q, k, kwargs.get("key_padding_mask"), module.shape.causal))

    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, Attention)
    ]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError(f"model={type(model).__name__}: expected a model that calls an Attention")
    return seen


def encoder_spectrum(model: nn.Module, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
    """The curves of every layer of `model(tokens, padding)`, the mean over the batch: `[layers, heads, N]`."""
    return spectra(capture(model, tokens, padding))


def spectra(captured: Sequence[Captured]) -> Tensor:
    """The curves of captured layers, the mean over the batch: `[layers, heads, N]`."""
    return torch.stack(
        [
            context_mapping_spectrum(q, k, key_padding_mask=padding, causal=causal).mean(0)
            for q, k, padding, causal in captured
        ]
    )


def plot_spectrum(curves: Tensor, path: str | Path, *, index: int | None = None) -> Path:
    """Draw curves `[layers, heads, N]` as the paper's figure 1 does, and return the file's path.

    Left: a layer's curve, the mean over its heads. Right: the cumulative share at the `index`-th largest singular
    value of every layer and head; by default a quarter of N, as 128 is of 512. ValueError for an index outside
    1..N.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, heads, n = curves.shape
    index = max(1, n // 4) if index is None else index
    if not 1 <= index <= n:
        raise ValueError(f"index={index}: expected an integer from 1 to {n}")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    colors = mpl.colormaps["viridis"](torch.linspace(0, 0.9, layers).numpy())
    for layer, (curve, color) in enumerate(zip(curves.mean(1).cpu().numpy(), colors, strict=True)):
        left.plot(range(1, n + 1), curve, color=color, label=f"layer {layer}")
    left.axvline(index, color="0.6", linewidth=0.8)
    left.set(xlabel="singular values", ylabel="cumulative share", ylim=(0, 1.02), xlim=(1, max(2, n)))
    left.legend(fontsize="small", frameon=False)
    image = right.imshow(curves[:, :, index - 1].cpu().numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
    right.set(xlabel="head", ylabel="layer", xticks=range(heads), yticks=range(layers))
    right.set_title(f"share of the {index} largest of {n}", fontsize="medium")
    figure.colorbar(image, ax=right)
    figure.savefig(path, dpi=150)
    return Path(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Plot stored queries and keys; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m methods.spectrum", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="what torch.save(capture(encoder, tokens), FILE) wrote")
    parser.add_argument("--out", type=Path, default=Path("spectrum.png"), help="the figure (png, pdf or svg)")
    parser.add_argument("--index", type=int, default=None, help="singular values counted in the heatmap")
    chosen = parser.parse_args(argv)
    try:
        with torch.serialization.safe_globals([Captured]):
            captured = torch.load(chosen.file, weights_only=True)
        curves = spectra([Captured(*layer) for layer in captured])
        print(plot_spectrum(curves, chosen.out, index=chosen.index))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        parser.error(f"{chosen.file}: {error}")


if __name__ == "__main__":
    main()
