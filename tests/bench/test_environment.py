"""What is kept of the machine, and that it is the same from one moment to the next."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import environment
from bench.environment import capture, env_id


def test_the_same_machine_has_the_same_id() -> None:
    first, second = capture("cpu"), capture("cpu")
    assert first == second
    assert env_id(first) == env_id(second)
    assert env_id(first) != env_id({**first, "cores": "999"})
    assert all(isinstance(value, str) and value for value in first.values())
    assert {"cpu", "caches", "governor", "parallel", "container_cpus", "torch_version"} <= set(first)


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", "all"), ("150000 100000", "1.5"), ("unknown", "unknown"), ("", "unknown")]
)
def test_quota_of_a_container(text: str, cpus: str) -> None:
    assert environment._quota(text) == cpus


@pytest.mark.parametrize(("text", "mib"), [("max", "all"), ("2147483648", "2048"), ("unknown", "unknown")])
def test_memory_of_a_container(text: str, mib: str) -> None:
    assert environment._mebibytes(text) == mib


def test_caches_and_driver_as_linux_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, (level, kind, size) in enumerate([("1", "Data", "48K"), ("3", "Unified", "36864K")]):
        folder = tmp_path / "cpu0" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(environment, "_SYSTEM", tmp_path)
    assert environment._caches() == "L1d 48K, L3 36864K"
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:"
    monkeypatch.setattr(environment, "_read", lambda path: line)
    assert environment._driver() == "550.54.15"
    monkeypatch.setattr(environment, "_read", lambda path: environment.UNKNOWN)
    assert environment._driver() == "unknown"


def test_a_gpu_as_cuda_tells_of_it() -> None:
    known = {
        "name": "NVIDIA H100",
        "multi_processor_count": 132,
        "clock_rate": 1980000,
        "total_memory": 80 * 2**30,
    }
    assert environment._gpu(SimpleNamespace(**known)) == {
        "gpu": "NVIDIA H100",
        "gpu_processors": "132",
        "gpu_highest_clock_khz": "1980000",
        "gpu_highest_memory_clock_khz": "unknown",  # an older torch does not tell
        "gpu_memory_mib": "81920",
    }


def test_the_versions_of_math_libraries_as_torch_tells_them() -> None:
    told = """PyTorch built with:
  - GCC 13.3
  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64 architecture
  - Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa71049cd69a3df32adcccb623b12cd7baa22)
"""
    found = environment._math_libraries(told)
    assert found == "Intel(R) oneAPI Math Kernel Library Version 2024.2; Intel(R) MKL-DNN v3.12.0"
    assert environment._math_libraries("PyTorch built with:\n  - GCC 13.3") == "unknown"


def test_the_commit_and_whether_files_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench").mkdir()
    source = tmp_path / "bench" / "environment.py"
    source.write_text("one")
    monkeypatch.setattr(environment, "__file__", str(source))
    monkeypatch.setattr(environment, "commit", environment.commit.__wrapped__)  # not kept between calls
    assert environment.commit() is None

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *arguments], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "--message", "one")
    git("tag", "v1")
    clean = environment.commit()
    assert clean is not None
    assert len(clean) == 12
    source.write_text("two")
    assert environment.commit() == f"{clean}-dirty"
