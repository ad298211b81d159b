"""What every task must do. A task is tested by its YAML in conf/task; nothing here names one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from omegaconf import OmegaConf

from bench.plugin import load_class, parameters
from bench.resolve import RESERVED
from tasks.data import content_hashes
from tasks.registry import IGNORE, POOLINGS, TASKS, SplitName, Task, data_digest, score

CONF = Path(__file__).parents[2] / "conf" / "task"
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
COUNTS = {"train": 400, "dev": 300, "test": 200}
FOLDER: dict[str, str] = {}
TRAIN_KEYS = {"steps", "batch_size", "lr", "warmup_steps", "weight_decay", "grad_clip", "eval_every"}


def yamls() -> Iterator[dict[str, Any]]:
    for path in sorted(CONF.glob("*.yaml")):
        conf = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(conf, dict)
        assert conf["name"] == path.stem
        if conf["_target_"] is not None:
            yield conf  # type: ignore[misc]


ALL = pytest.mark.parametrize("conf", list(yamls()), ids=lambda conf: conf["name"])


def load(target: str) -> type[Task]:
    return load_class(target, Task, "task", TASKS)


def reads_files(target: str) -> bool:
    return "data_dir" in parameters(load(target))


def build(target: str, **params: Any) -> Task:
    if reads_files(target):
        params = {"data_dir": FOLDER["data_dir"]} | params
    return load(target)(**params)


@pytest.fixture(autouse=True, scope="module")
def _folder(data_dir: str) -> None:
    FOLDER["data_dir"] = data_dir


def counts(conf: dict[str, Any]) -> dict[str, int]:
    """Examples a split; a tenth of the usual for long rows."""
    return {split: count // 10 if conf["seq_len"] > 4096 else count for split, count in COUNTS.items()}


def small(conf: dict[str, Any], seed: int = 0, **changes: Any) -> Task:
    """The task of a YAML with few examples."""
    few = {f"{split}_examples": count for split, count in counts(conf).items()}
    params = conf["params"] | {key: count for key, count in few.items() if key in conf["params"]}
    return build(conf["_target_"], seq_len=conf["seq_len"], seed=seed, **params | changes)


@pytest.fixture(scope="module")
def made() -> dict[str, Task]:
    return {}


@pytest.fixture
def task(conf: dict[str, Any], made: dict[str, Task]) -> Task:
    return made.setdefault(conf["name"], small(conf))


def test_every_registered_task_has_a_yaml() -> None:
    assert set(TASKS.values()) <= {conf["_target_"] for conf in yamls()}


@ALL
def test_yaml_holds_the_constructor_s_parameters_and_builds(conf: dict[str, Any]) -> None:
    assert set(conf) == {"name", "_target_", "seq_len", "params", "train"}
    assert set(conf["params"]) == set(parameters(load(conf["_target_"]), RESERVED["task"]))
    assert set(conf["train"]) - {"stratify"} == TRAIN_KEYS
    assert conf["train"]["warmup_steps"] < conf["train"]["steps"]
    built = build(conf["_target_"], seq_len=conf["seq_len"], seed=0, **conf["params"])
    assert built.metric == "accuracy"


@ALL
def test_shapes_ids_and_padding(conf: dict[str, Any], task: Task) -> None:
    for split in SPLITS:
        examples = task.examples(split)
        tokens, targets, lengths = examples.tokens, examples.targets, examples.lengths
        for column in (tokens, targets, lengths):
            assert not column.is_floating_point()
        # the narrowest dtype that holds every id: the published sizes fill the memory otherwise
        assert torch.iinfo(tokens.dtype).max < 2**16 or task.vocab_size > 2**15
        assert tokens.dtype == torch.uint8 or task.vocab_size > 2**8
        documents = () if task.documents == 1 else (task.documents,)
        assert tokens.shape == (counts(conf)[split], *documents, conf["seq_len"])
        assert targets.shape == (tokens.shape if task.per_token else (counts(conf)[split],))
        assert tokens.min() >= 0
        assert int(tokens.max()) < task.vocab_size
        counted = targets[targets != IGNORE]
        assert counted.numel() > 0
        assert int(counted.min()) >= 0  # as Python's integers: 128 wraps around in int8
        assert int(counted.max()) < task.num_classes
        if not task.per_token:
            assert counted.numel() == len(targets)

        padding = torch.arange(conf["seq_len"]) >= lengths[..., None]
        assert ((lengths >= 1) & (lengths <= conf["seq_len"])).all()
        assert (tokens[padding] == task.pad_id).all()
        if task.per_token:
            assert (targets[padding] == IGNORE).all()


@ALL
def test_same_seed_same_bits(
    conf: dict[str, Any], task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "another"))
    torch.manual_seed(1)  # global state must not matter, nor the order of the splits
    again = small(conf)
    for split in reversed(SPLITS):
        assert torch.equal(task.examples(split).tokens, again.examples(split).tokens)
        assert torch.equal(task.examples(split).targets, again.examples(split).targets)
        assert torch.equal(task.examples(split).lengths, again.examples(split).lengths)
    assert data_digest(task) == data_digest(again)


@ALL
def test_other_seed_other_data(conf: dict[str, Any], task: Task) -> None:
    ours, theirs = (set(content_hashes(t.examples("train"))) for t in (task, small(conf, seed=1)))
    # of a file's rows a seed can only draw others
    assert len(ours & theirs) < (0.95 if reads_files(conf["_target_"]) else 0.05) * len(ours)


@ALL
def test_splits_share_nothing(conf: dict[str, Any], task: Task) -> None:
    train, dev, test = (content_hashes(task.examples(split)) for split in SPLITS)
    assert not set(train) & set(dev)
    assert not set(train) & set(test)
    assert not set(dev) & set(test)
    assert len(set(dev)) == len(dev)
    assert len(set(test)) == len(test)


@ALL
def test_chance_is_what_the_best_constant_scores(conf: dict[str, Any], task: Task) -> None:
    assert 0 < task.chance < 1
    targets = task.examples("test").targets
    counts = torch.bincount(targets[targets != IGNORE].long(), minlength=task.num_classes)
    best = int(counts.argmax())
    # targets of one row may depend on each other, so the noise is that between rows
    hits = (targets == best).reshape(len(targets), -1).sum(1).double()
    error = float(hits.std()) * len(targets) ** 0.5 / float(counts.sum())
    # the best of several constants on a finite sample lies a few standard errors over the truth
    assert float(counts[best] / counts.sum()) == pytest.approx(task.chance, abs=4.5 * error)


@ALL
def test_a_constant_answer_is_scored_by_its_share(conf: dict[str, Any], task: Task) -> None:
    targets = task.examples("test").rows(torch.arange(2)).targets
    answer = int(targets[targets != IGNORE][0])
    logits = torch.zeros(*targets.shape, task.num_classes)
    logits[..., answer] = 1
    assert score(logits, targets) == (int((targets == answer).sum()), int((targets != IGNORE).sum()))


@ALL
def test_tags_are_of_dev_and_test_alike(conf: dict[str, Any], task: Task) -> None:
    dev, test = (task.examples(split).tags for split in ("dev", "test"))
    assert (dev is None) == (test is None)
    if dev and test:
        assert set(dev) == set(test)
        for name in dev:
            assert set(dev[name].tolist()) == set(test[name].tolist())


@ALL
@pytest.mark.parametrize("pooling", POOLINGS)
def test_head(conf: dict[str, Any], task: Task, pooling: str) -> None:
    examples = task.examples("dev").rows(torch.arange(3))
    width = 8
    hidden = torch.randn(*examples.tokens.shape, width, generator=torch.Generator().manual_seed(0))
    padding = examples.padding_mask()
    head = task.head(width, pooling)
    logits = head(hidden, padding)
    assert logits.shape == (*examples.targets.shape, task.num_classes)
    if padding is not None:
        garbled = hidden.masked_fill(padding[..., None], 1e3)
        kept = slice(None) if not task.per_token else ~padding
        sees_padding = pooling == "mean_with_padding" and not task.per_token
        assert torch.equal(logits[kept], head(garbled, padding)[kept]) is not sees_padding


@ALL
def test_counts_must_be_positive(conf: dict[str, Any]) -> None:
    for key in conf["params"]:
        if key.endswith("_examples"):
            with pytest.raises(ValueError, match=rf"^{key}=0: expected at least 1"):
                small(conf, **{key: 0})
