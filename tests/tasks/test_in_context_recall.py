"""In-context recall against a reader that parses each row and keeps a book of its own."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.in_context_recall import InContextRecall
from tasks.registry import IGNORE, Examples

FEW = {"train_examples": 600, "dev_examples": 100, "test_examples": 100}

Symbols = tuple[int, ...]


def pairs_of(tokens: list[int], vocab: int) -> list[tuple[str, Symbols, Symbols]]:
    """("pair" or "noise", key, value) in turn; a key is a run of key symbols, its value the run behind it."""
    kinds = ["k" if t <= vocab // 2 else "v" if t <= vocab else "n" for t in tokens]
    found, at = [], 0
    while at < len(tokens):
        end = at
        while end < len(tokens) and kinds[end] == kinds[at]:
            end += 1
        if kinds[at] == "n":
            found.append(("noise", tuple(tokens[at:end]), ()))
            at = end
            continue
        assert kinds[at] == "k"
        stop = end
        while stop < len(tokens) and kinds[stop] == "v":
            stop += 1
        found.append(("pair", tuple(tokens[at:end]), tuple(tokens[end:stop])))
        at = stop
    return found


def rows(examples: Examples):
    for tokens, targets, length in zip(
        examples.tokens.tolist(), examples.targets.tolist(), examples.lengths.tolist(), strict=True
    ):
        assert tokens[length:] == [0] * (len(tokens) - length)
        yield tokens[:length], targets, length


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("motif", [1, 2])
def test_a_repeated_key_repeats_its_value_which_is_the_target(motif: int, noise: float) -> None:
    task = InContextRecall(seq_len=40, seed=2, vocab=6, motif=motif, noise=noise, noise_vocab=5, **FEW)
    for tokens, targets, length in rows(task.examples("test")):
        wanted = [IGNORE] * 40
        book: dict[Symbols, Symbols] = {}
        at = 0
        for kind, key, value in pairs_of(tokens, 6):
            if kind == "noise":
                at += len(key)
                continue
            assert len(key) == motif  # at test, of full size
            assert len(set(key)) == len(key)
            assert 1 <= len(value) <= motif
            assert len(set(value)) == len(value)
            at += len(key)
            if key in book:
                assert value == book[key]
                for offset, token in enumerate(value):
                    wanted[at + offset - 1] = token
            book[key] = value
            at += len(value)
        assert targets == wanted
        assert at == length
        assert targets[length - 2] != IGNORE  # the last pair is a question
        assert 40 - 3 * motif + 2 <= length <= 40  # no pair of full size would have fitted


def test_training_counts_every_next_token() -> None:
    task = InContextRecall(seq_len=40, seed=2, vocab=6, motif=2, noise=0.2, **FEW)
    sizes: Counter[int] = Counter()
    for tokens, targets, length in rows(task.examples("train")):
        assert targets == [*tokens[1:], *[IGNORE] * (40 - length + 1)]
        sizes.update(len(key) for kind, key, _ in pairs_of(tokens, 6) if kind == "pair")
    assert set(sizes) == {1, 2}
    assert sizes[1] / sizes.total() == pytest.approx(
        0.5, abs=0.03
    )  # but for the last pair, which asks for any key


def test_noise_has_its_share_and_symbols_of_its_own() -> None:
    task = InContextRecall(seq_len=128, seed=0, noise=0.2, **FEW)
    assert task.vocab_size == 33
    noisy = total = 0
    for tokens, _, _ in rows(task.examples("train")):
        assert all((a > 16) == (b > 16) for a, b in zip(tokens[::2], tokens[1::2], strict=True))
        noisy += sum(token > 16 for token in tokens[2:-2:2])  # neither the first nor the last pair
        total += len(tokens[2:-2:2])
        assert tokens[0] <= 8
        assert tokens[-2] <= 8
    assert noisy / total == pytest.approx(0.2, abs=4.5 * (0.16 / total) ** 0.5)


def test_keys_values_and_the_last_question_are_uniform() -> None:
    task = InContextRecall(seq_len=12, seed=0, vocab=8, **FEW | {"train_examples": 6000})
    first, value, asked = Counter(), Counter(), Counter()
    for tokens, _, _ in rows(task.examples("train")):
        first[tokens[0]] += 1
        value[tokens[1]] += 1
        earlier = list(dict.fromkeys(tokens[0:-2:2]))
        if len(earlier) == 3:
            asked[earlier.index(tokens[-2])] += 1
    for counts, kinds in ((first, 4), (value, 4), (asked, 3)):
        expected = sum(counts.values()) / kinds
        assert len(counts) == kinds
        assert all(count == pytest.approx(expected, abs=4.5 * expected**0.5) for count in counts.values())


def test_an_odd_length_is_padded() -> None:
    examples = InContextRecall(seq_len=9, seed=0, **FEW).examples("test")
    assert set(examples.lengths.tolist()) == {8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": 15}, r"vocab=15: expected an even number"),
        ({"vocab": 4, "motif": 3}, r"vocab=4: expected at least 6 \(motif=3"),
        ({"motif": 0}, r"motif=0: expected at least 1"),
        ({"noise": 1.0}, r"noise=1\.0: expected a share"),
        ({"noise_vocab": 0}, r"noise_vocab=0: expected at least 1"),
        ({"seq_len": 7, "motif": 2}, r"seq_len=7: expected at least 8 \(two pairs, motif=2\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InContextRecall(**{"seq_len": 16, "seed": 0, **changes})
