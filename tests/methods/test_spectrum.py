"""The spectrum of attention (N9): against an SVD by hand, on a model, padded, causal, and drawn."""

import subprocess
import sys

import pytest
import torch

from methods.encoder import Encoder
from methods.linformer import Linformer
from methods.registry import Shape
from methods.sdpa import SDPA
from methods.spectrum import (
    capture,
    context_mapping_spectrum,
    encoder_spectrum,
    main,
    plot_spectrum,
    spectra,
)


def encoder(method=SDPA, layers=3, causal=False, **params):
    torch.manual_seed(0)
    made = method.layers(Shape(2, 8, 16, causal), layers, torch.Generator().manual_seed(0), **params)
    return Encoder(made, vocab_size=11, ff_dim=32)


def tokens(batch=2, n=16):
    return torch.randint(11, (batch, n), generator=torch.Generator().manual_seed(1))


def test_n9_equals_the_singular_values_of_the_matrix():
    """N9: shares of the sum of square roots of the eigenvalues of P^T P, largest first."""
    q, k = torch.randn(2, 2, 3, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curves = context_mapping_spectrum(q, k)
    for b in range(2):
        for h in range(3):
            scores = torch.exp(q[b, h] @ k[b, h].T / 2)
            mapping = scores / scores.sum(1, keepdim=True)
            values = torch.linalg.eigvalsh(mapping.T @ mapping).clamp(min=0).sqrt().flip(0)
            assert torch.allclose(curves[b, h], values.cumsum(0) / values.sum(), atol=1e-7)


def test_n9_known_spectra():
    """N9: equal keys make rank one, orthogonal sharp queries and keys the identity."""
    same = context_mapping_spectrum(torch.randn(1, 1, 8, 4), torch.ones(1, 1, 8, 4))
    assert torch.allclose(same, torch.ones(1, 1, 8, dtype=torch.float64), atol=1e-6)
    eye = 100 * torch.eye(8)[None, None]
    assert torch.allclose(context_mapping_spectrum(eye, eye)[0, 0], torch.arange(1, 9).double() / 8)


def test_n9_padding_leaves_the_spectrum_of_the_real_tokens():
    """N9: the curve of a padded row is that of its real tokens alone, then 1."""
    q, k = torch.randn(2, 2, 2, 10, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, 6:] = True
    padded = context_mapping_spectrum(q, k, key_padding_mask=mask)
    alone = context_mapping_spectrum(q[:1, :, :6], k[:1, :, :6])
    assert torch.allclose(padded[:1, :, :6], alone, atol=1e-12)
    assert torch.allclose(padded[0, :, 5:], torch.ones(2, 5, dtype=torch.float64))
    assert torch.allclose(padded[1:], context_mapping_spectrum(q[1:], k[1:]))


def test_n9_causal_uses_the_lower_triangle():
    """N9: a causal layer's matrix has no future in it, padded or not."""
    q, k = torch.randn(2, 2, 1, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mapping = (q[0, 0] @ k[0, 0].T / 2).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf).softmax(-1)
    values = torch.linalg.svdvals(mapping)
    want = values.cumsum(0) / values.sum()
    assert torch.allclose(context_mapping_spectrum(q, k, causal=True)[0, 0], want)
    none = torch.zeros(2, 6, dtype=torch.bool)
    assert torch.allclose(context_mapping_spectrum(q, k, causal=True, key_padding_mask=none)[0, 0], want)


@pytest.mark.parametrize("method", [SDPA, Linformer])
def test_n9_reads_every_layer_of_an_encoder(method):
    """N9: one curve a layer and head, rising to one, from the q and k that the layers really saw."""
    model = encoder(method).train()
    mask = torch.arange(16) >= torch.tensor([[16], [12]])
    curves = encoder_spectrum(model, tokens(), mask)
    assert curves.shape == (3, 2, 16)
    assert bool((curves.diff(dim=-1) >= -1e-12).all())
    assert torch.allclose(curves[..., -1], torch.ones(3, 2, dtype=torch.float64))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    first = capture(model, tokens(), mask)[0]
    hidden = model.embed(tokens()) + model.positions
    block = model.layers()[0]
    q = block.mixer.qkv(block.norm_mixer(hidden))[..., :16].unflatten(-1, (2, 8)).transpose(1, 2)
    assert torch.allclose(first.q, q, atol=1e-6)
    assert first.padding is mask


def test_n9_causal_layers_are_known_as_such():
    captured = capture(encoder(causal=True), tokens())
    assert all(layer.causal for layer in captured)
    want = context_mapping_spectrum(captured[1].q, captured[1].k, causal=True).mean(0)
    assert torch.allclose(spectra(captured)[1], want)


def test_n9_the_figure_and_the_command(tmp_path, capsys):
    """N9: the figure is drawn, and the command draws the same from a file."""
    captured = capture(encoder(), tokens())
    drawn = plot_spectrum(spectra(captured), tmp_path / "own.png", index=4)
    torch.save(captured, tmp_path / "qk.pt")
    main([str(tmp_path / "qk.pt"), "--out", str(tmp_path / "command.png"), "--index", "4"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "command.png")
    assert drawn.read_bytes() == (tmp_path / "command.png").read_bytes()
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_n9_what_cannot_be_drawn_is_refused(tmp_path, capsys):
    curves = torch.ones(1, 1, 8)
    for index in (0, 9):
        with pytest.raises(ValueError, match=f"index={index}: expected an integer from 1 to 8"):
            plot_spectrum(curves, tmp_path / "no.png", index=index)
    with pytest.raises(ValueError, match="expected a model that calls an Attention"):
        capture(torch.nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "absent.pt")])
    assert left.value.code == 2
    assert "absent.pt" in capsys.readouterr().err


def test_importing_the_tool_loads_no_plotting():
    code = "import methods.spectrum, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
