from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest

from bench.plugin import check_parameters, load_class, naming
from bench.resolve import RESERVED
from tasks.copying import Copying
from tasks.registry import TASKS, Task

OUTSIDE = """
import torch
from tasks.base import Examples, Task

class Parity(Task):
    vocab_size = 3
    num_classes = 2
    chance = 0.5

    def __init__(self, *, seq_len: int, seed: int, rows: int = 4) -> None:
        super().__init__(seq_len=seq_len, seed=seed)
        self.rows = rows

    def examples(self, split):
        bits = torch.randint(2, (self.rows, self.seq_len))
        return Examples(bits + 1, bits.sum(1) % 2, torch.full((self.rows,), self.seq_len))

class Half(Task):
    vocab_size = 3

class NotATask:
    pass
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside_pkg.py").write_text(OUTSIDE)
    (tmp_path / "broken_pkg.py").write_text("import surely_not_installed_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside_pkg"
    sys.modules.pop("outside_pkg", None)


def load(target: str) -> type[Task]:
    return load_class(target, Task, "task", TASKS)


def build(target: str, *, seq_len: int, seed: int, **params: object) -> Task:
    checked = check_parameters(load(target), params, "task", RESERVED["task"])
    with naming("task", checked):
        return load(target)(seq_len=seq_len, seed=seed, **checked)


def test_short_names() -> None:
    assert load("copying") is Copying
    for name, target in TASKS.items():
        assert load(name) is load(target)


def test_a_class_from_outside_needs_no_registration(outside: str) -> None:
    task = build(f"{outside}.Parity", seq_len=8, seed=0, rows=5)
    assert task.examples("dev").tokens.shape == (5, 8)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("listop", r"'listop': unknown \(did you mean 'listops'\?\); known: copying, duplication, "),
        ("no_such_pkg.Task", "importing no_such_pkg failed: ModuleNotFoundError"),
        ("broken_pkg.Task", "importing broken_pkg failed: .*surely_not_installed_here"),
        ("outside_pkg.Party", r"no Party \(did you mean 'Parity'\?\)"),
        ("outside_pkg.NotATask", r"not a subclass of tasks\.base\.Task"),
        ("outside_pkg.Half", "abstract, it does not define chance, examples, num_classes"),
    ],
)
def test_wrong_targets(outside: str, target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load(target)
    assert target in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"token": 4},
            r"task\.token=4: Copying has no such parameter \(did you mean 'tokens'\?\); allowed: tokens",
        ),
        ({"tokens": "4"}, r"task\.tokens='4': expected int"),
        ({"tokens": True}, r"task\.tokens=True: expected int"),
        ({"tokens": 4.0}, r"task\.tokens=4\.0: expected int"),
        ({"selective": 1}, r"task\.selective=1: expected bool"),
        ({"tokens": 9}, r"^seq_len=16: expected at least 18 \(2 \* tokens, tokens=9\)"),
        ({"alphabet": 3}, r"task\.alphabet=3: expected at least 4"),
    ],
)
def test_wrong_parameters(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("copying", seq_len=16, seed=0, **params)


def test_check_does_not_make_the_task() -> None:
    assert check_parameters(Copying, {"tokens": 10**6}, "task", RESERVED["task"]) == {"tokens": 10**6}
    with pytest.raises(ValueError, match=r"task\.seed=1: set by the harness"):
        check_parameters(Copying, {"seed": 1}, "task", RESERVED["task"])


class Many:
    def __init__(
        self,
        *,
        rate: float,
        kind: Literal["a", "b"] = "a",
        flag: Literal[True] = True,
        maybe: int | None = None,
        either: float | int | str = 0,
        pair: tuple[int, str] = (1, "x"),
        some: tuple[float, ...] = (),
        listed: list[int | None] = [],  # noqa: B006
        anything: object = None,
    ) -> None:
        pass


def test_values_are_converted_as_annotated() -> None:
    checked = check_parameters(
        Many,
        {
            "rate": 1,
            "pair": [2, "y"],
            "some": [1, 2.5],
            "listed": (1, None),
            "either": 3,
            "maybe": None,
            "anything": {},
        },
        "thing",
    )
    assert checked["rate"] == 1.0
    assert isinstance(checked["rate"], float)
    assert isinstance(checked["either"], int)
    assert checked["pair"] == (2, "y")
    assert checked["some"] == (1.0, 2.5)
    assert checked["listed"] == [1, None]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "thing.rate: missing; Many needs rate"),
        ({"rate": "1"}, "thing.rate='1': expected float"),
        ({"rate": True}, "thing.rate=True: expected float"),
        ({"rate": 1, "kind": "aa"}, "thing.kind='aa': expected one of 'a', 'b' (did you mean 'a'?)"),
        ({"rate": 1, "flag": 1}, "thing.flag=1: expected one of True"),
        ({"rate": 1, "maybe": "x"}, "thing.maybe='x': expected int or null"),
        ({"rate": 1, "pair": [1]}, "thing.pair=[1]: expected tuple[int, str]"),
        ({"rate": 1, "some": "12"}, "thing.some='12': expected tuple[float, ...]"),
        ({"rate": 1, "listed": [1.5]}, "thing.listed=[1.5]: expected list[int | None]"),
    ],
)
def test_wrong_values(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        check_parameters(Many, params, "thing")
    assert str(raised.value) == message


def test_open_ended_constructors_take_anything() -> None:
    class Open:
        def __init__(self, **rest: int) -> None:
            pass

    assert check_parameters(Open, {"x": 1}, "thing") == {"x": 1}


def test_load_class_without_known_names() -> None:
    assert load_class("tasks.copying.Copying", Task, "task") is Copying
    with pytest.raises(ValueError, match="known: none"):
        load_class("copying", Task, "task")
