"""What heads pool, and the classifiers behind it."""

import pytest
import torch

from tasks.heads import POOLINGS, PairHead, SequenceHead, pool


def test_pooling_by_loops() -> None:
    hidden = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    lengths = [7, 3, 1]
    padding = torch.arange(7) >= torch.tensor(lengths)[:, None]
    wanted = {
        "cls": [row[0] for row in hidden],
        "first": [row[0] for row in hidden],
        "mean": [row[:n].mean(0) for row, n in zip(hidden, lengths, strict=True)],
        "last": [row[n - 1] for row, n in zip(hidden, lengths, strict=True)],
        "mean_with_padding": [row.mean(0) for row in hidden],
        "sum_over_length": [row[:n].sum(0) / 7 for row, n in zip(hidden, lengths, strict=True)],
    }
    assert set(wanted) == set(POOLINGS)
    for pooling, rows in wanted.items():
        assert torch.allclose(pool(hidden, padding, pooling), torch.stack(rows), atol=1e-6)
    for pooling in ("mean", "mean_with_padding", "sum_over_length"):
        assert torch.allclose(pool(hidden, None, pooling), hidden.mean(1))
    assert torch.equal(pool(hidden, None, "last"), hidden[:, -1])


def test_the_hidden_layer_s_width() -> None:
    for given, dim in ((None, 6), (128, 128)):
        head = SequenceHead(6, 3, "mean", given)
        assert [p.shape for p in (head.hidden.weight, head.classes.weight)] == [(dim, 6), (3, dim)]
        pair = PairHead(6, 3, "mean", hidden_dim=given)
        assert [p.shape for p in (pair.hidden.weight, pair.classes.weight)] == [(dim, 24), (3, dim)]


@pytest.mark.parametrize("interaction", [True, False])
def test_pairs_by_hand(interaction: bool) -> None:
    head = PairHead(4, 2, "last", interaction, hidden_dim=10)
    hidden = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    a, b = hidden[:, 0, -1], hidden[:, 1, -1]
    parts = [a, b, a * b, a - b] if interaction else [a, b]
    inner = torch.relu(head.hidden(torch.cat(parts, dim=1)))
    if not interaction:  # Long Range Arena's second hidden layer, half as wide
        narrow = head.narrow[0]
        assert narrow.weight.shape == (5, 10)
        inner = torch.relu(narrow(inner))
    assert torch.allclose(head(hidden), head.classes(inner), atol=1e-6)


def test_an_unknown_pooling_is_refused() -> None:
    for head in (SequenceHead, PairHead):
        with pytest.raises(ValueError, match=r"^pooling='max': expected one of cls, mean, first, last, mean_with"):
            head(4, 2, "max")


def test_pooled_vectors_are_standardised_over_the_batch() -> None:
    torch.manual_seed(0)
    hidden = 5 + torch.randn(6, 4, 3)
    head = SequenceHead(3, 2, "mean", norm="batch")
    pooled = hidden.mean(dim=1)
    wanted = (pooled - pooled.mean(0)) / torch.sqrt(pooled.var(0, unbiased=False) + 1e-5)
    assert torch.allclose(head(hidden), head.classes(torch.relu(head.hidden(wanted))), atol=1e-5)
    running = 0.1 * pooled.mean(0)  # from 0, by a tenth a batch
    assert torch.allclose(head.norm.running_mean, running, atol=1e-6)
    head.eval()
    seen = head(hidden)
    assert torch.allclose(head(hidden[:2]), seen[:2], atol=1e-6)  # a row does not depend on its neighbours
    head.train()
    assert torch.isfinite(head(hidden[:1])).all()  # one row has no spread
    assert [parameter.shape for parameter in head.norm.parameters()] == []


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^pooled_norm='layer': expected one of none, batch$"):
        SequenceHead(3, 2, "mean", norm="layer")
