"""Pathfinder against a plain second generator, and the statistics of the original program."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tasks.pathfinder import Pathfinder, check, growth, sprites
from tasks.pathfinder.canvas import Rules
from tasks.pathfinder.places import beginnings
from tests.tasks.pathfinder_oracle import Plain

FEW = {"train_examples": 60, "dev_examples": 20, "test_examples": 20}
SMALL: dict[str, Any] = {"seed_distance": 3, "contour_length": 5, "distractor_dashes": 4}


def images(task: Pathfinder, count: int) -> np.ndarray:
    return np.concatenate([pixels for pixels, _ in task.chunks(count)])[:count]


def directions(length: int, thickness: float, margin: int, *, isotropic: bool = False) -> list[int]:
    made = sprites.sprites(sprites.Dash(length, thickness, margin, 2), isotropic=isotropic)
    return [int(degree) - 180 for degree in np.flatnonzero(made.kernel_sizes)]


def test_directions_of_a_first_dash_are_the_original_s() -> None:
    assert directions(2, 0.5, 1) == list(range(-150, -120))
    assert directions(5, 1.0, 1) == [d for d in range(-180, -84) if d != -135]
    assert len(directions(5, 1.5, 2)) == 354
    assert len(directions(5, 1.5, 3)) == len(directions(5, 2.0, 3)) == 360
    assert len(directions(2, 0.5, 1, isotropic=True)) == 360


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        pytest.param(
            16, {"seed_distance": 2, "contour_length": 4, "distractors": 2, "distractor_length": 1}, id="16"
        ),
        pytest.param(
            24,
            {"seed_distance": 4, "contour_length": 6, "distractors": 4, "distractor_length": 2, "faithful": False},
            id="isotropic",
        ),
        pytest.param(
            32,
            {
                "length": 4,
                "thickness": 1.0,
                "margin": 2,
                "border": 2,
                "seed_distance": 4,
                "marker_radius": 2.5,
                "continuity": 1.8,
                "contour_length": 3,
                "distractors": 3,
                "distractor_length": 1,
                "target_contrast": 0.8,
                "distractor_contrast": 0.7,
            },
            id="wide",
        ),
    ],
)
def test_images_equal_those_of_the_plain_generator(size: int, changes: dict[str, Any]) -> None:
    seeds = np.array([1, 2**63 + 5, 77], dtype=np.uint64)
    plain = [Plain(size=size, state=int(seed), **changes) for seed in seeds]
    want = [one.make() for one in plain]
    one = plain[0]
    dash = sprites.Dash(one.length, one.thickness, one.margin, one.scale)
    shape = sprites.sprites(dash, isotropic=not one.faithful)
    rules = Rules(
        size=size,
        border=one.border,
        seed_distance=one.seed_distance,
        length=one.length,
        margin=one.margin,
        continuity=one.continuity,
        contour_length=one.contour_length,
        distractor_length=one.distractor_length,
        distractors=one.distractors,
        target_contrast=one.target_contrast,
        distractor_contrast=one.distractor_contrast,
        outside_is_free=one.faithful,
    )
    discs = sprites.markers(one.marker_radius, one.scale, size)
    got = growth.grow(rules, shape, beginnings(rules, shape), discs, seeds)
    assert got.starts.tolist() == [p.starts for p in plain]
    assert got.distractors.tolist() == [p.fitted for p in plain]
    assert got.labels.tolist() == [label for _, label in want]
    for pixels, (expected, _) in zip(got.pixels, want, strict=True):
        assert (pixels == expected).all()


def test_statistics_of_the_original_program() -> None:
    """2,000 images of drewlinsley/pathfinder at 32 pixels: docs/pathfinder.md."""
    made = images(Pathfinder(seq_len=1024, seed=1), 2000)
    assert (made > 0).mean() == pytest.approx(0.342, abs=0.004)
    visible = made > 60
    assert visible.mean() == pytest.approx(0.128, abs=0.002)
    assert made.mean() == pytest.approx(20.2, abs=0.4)
    quarters = [visible[:, y : y + 16, x : x + 16].mean() for y in (0, 16) for x in (0, 16)]
    assert quarters == pytest.approx([0.168, 0.120, 0.120, 0.102], abs=0.006)


def test_statistics_of_the_isotropic_form() -> None:
    made = images(Pathfinder(seq_len=1024, seed=1, mode="isotropic"), 1000)
    assert (made > 0).mean() == pytest.approx(0.452, abs=0.006)
    assert (made > 60).mean() == pytest.approx(0.179, abs=0.004)
    assert made.mean() == pytest.approx(27.8, abs=0.6)


@pytest.mark.parametrize(("isotropic", "fitted"), [(False, 1.2), (True, 4.6)])
def test_distractors_that_fit(isotropic: bool, fitted: float) -> None:
    """As counted in the original program, and in its form without the preferred directions."""
    shape = sprites.sprites(sprites.Dash(2, 0.5, 1, 2), isotropic=isotropic)
    rules = Rules(32, 1, 7, 2, 1, 1.0, 14, 4, 5, 1.5, 2.0, not isotropic)
    seeds = np.arange(1000, dtype=np.uint64) * np.uint64(2**40)
    got = growth.grow(rules, shape, beginnings(rules, shape), sprites.markers(1.5, 2, 32), seeds)
    assert got.distractors.mean() == pytest.approx(fitted, abs=0.15)
    assert got.distractors.max() == 5
    assert got.labels.mean() == pytest.approx(0.5, abs=0.06)


def test_curves_do_not_depend_on_contrast_and_markers_shine() -> None:
    rules = Rules(32, 1, 7, 2, 1, 1.0, 14, 4, 0, 1.5, 2.0, False)
    shape = sprites.sprites(sprites.Dash(2, 0.5, 1, 2), isotropic=True)
    begin, discs = beginnings(rules, shape), sprites.markers(1.5, 2, 32)
    seeds = np.arange(40, dtype=np.uint64)
    got = growth.grow(rules, shape, begin, discs, seeds)
    faint = growth.grow(rules._replace(target_contrast=0.2), shape, begin, discs, seeds)
    assert (got.labels == faint.labels).all()
    assert (got.markers == faint.markers).all()
    for pixels, markers in zip(faint.pixels, faint.markers, strict=True):
        assert all(pixels[tuple(at)] == 255 for at in markers)


def test_threads_do_not_change_images() -> None:
    import numba

    task = Pathfinder(seq_len=256, seed=3, **SMALL, **FEW)
    both = images(task, 40)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert (images(task, 40) == both).all()
    finally:
        numba.set_num_threads(before)


def test_every_module_that_makes_images_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an edit of any of them, or of a class derived from ours, makes the images anew."""
    asked: list[set[str]] = []

    def cached(name: str, identity: object, sources: tuple[str, ...], build: object) -> dict[str, np.ndarray]:
        asked.append(set(sources))
        return {"tokens": np.zeros((100, 64), dtype=np.uint8), "targets": np.zeros(100, dtype=np.uint8)}

    class Own(Pathfinder):
        pass

    monkeypatch.setattr("tasks.pathfinder.task.cached", cached)
    Own(seq_len=64, seed=0, seed_distance=1, **FEW).examples("dev")
    of_the_package = {path.stem for path in Path(check.__file__).parent.glob("*.py")}
    making = of_the_package - {"__init__", "check", "compiled"}
    assert asked == [{f"tasks.pathfinder.{stem}" for stem in making} | {"tasks.seeds", __name__}]


def test_black_pixels_may_be_padding() -> None:
    plain = Pathfinder(seq_len=256, seed=0, **SMALL, **FEW).examples("dev")
    masked = Pathfinder(seq_len=256, seed=0, mask_black=True, **SMALL, **FEW).examples("dev")
    assert plain.padding_mask() is None
    assert torch.equal(plain.tokens, masked.tokens)
    padding = masked.padding_mask()
    assert padding is not None
    assert torch.equal(padding, masked.tokens == 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seq_len": 1000}, "seq_len=1000: expected a square number"),
        ({"mode": "odd"}, "mode=odd: expected one of faithful, isotropic"),
        ({"dash_thickness": 0.3}, "dash_thickness=0.3"),
        ({"margins": []}, r"margins=\[\]"),
        ({"margins": [0]}, r"margins=\[0\]"),
        ({"border": 16}, "border=16"),
        ({"seed_distance": 8}, "seed_distance=8: expected 1 to 7"),
        ({"contour_length": 2}, "contour_length=2"),
        ({"continuity": 0}, "continuity=0"),
        ({"test_examples": 0}, "test_examples=0"),
    ],
)
def test_parameters_out_of_range(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pathfinder(**{"seq_len": 1024, "seed": 0} | changes)


def test_targets_that_never_fit() -> None:
    task = Pathfinder(seq_len=64, seed=0, seed_distance=1, contour_length=40, **FEW)
    with pytest.raises(ValueError, match="contour_length=40: no two targets"):
        task.examples("dev")


def reference(path: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    def png(image: np.ndarray) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    pd.DataFrame({"image": [png(image) for image in pixels], "label": labels}).to_parquet(path)
    return path


def test_check_finds_own_images_alike_and_others_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, labels = check.own("pathfinder", 400, seed=5)
    same = reference(tmp_path / "same.parquet", pixels, labels)
    assert check.main([str(same), "--images", "400"]) == 0
    fuller = images(Pathfinder(seq_len=1024, seed=5, mode="isotropic"), 400)
    other = reference(tmp_path / "other.parquet", fuller, labels)
    assert check.main([str(other), "--images", "400"]) == 1
    assert "told apart" in capsys.readouterr().out
    assert check.main([str(same), "--task", "pathfinder_64", "--images", "8"]) == 2
    assert "choose another --task" in capsys.readouterr().err


def test_the_number_of_threads_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, since numba starts its pool once; with what is compiled already."""
    monkeypatch.delenv("ATTNBENCH_CACHE")
    code = """
import numpy, torch
from tasks.pathfinder import growth, sprites
from tasks.pathfinder.canvas import Rules
from tasks.pathfinder.places import beginnings
torch.set_num_threads(1)
before = torch.get_num_threads()
seeds = numpy.arange(4, dtype=numpy.uint64)
rules = Rules(32, 1, 7, 2, 1, 1.0, 14, 4, 5, 1.5, 2.0, True)
shape = sprites.sprites(sprites.Dash(2, 0.5, 1, 2), isotropic=False)
growth.grow(rules, shape, beginnings(rules, shape), sprites.markers(1.5, 2, 32), seeds)
print(before, torch.get_num_threads())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "1"]
