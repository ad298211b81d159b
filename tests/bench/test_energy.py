"""Energy: counters that wrap, are hidden, or may not be read; a GPU's by a stand-in for NVML."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.collect import rows_of
from bench.execute import new_record
from bench.measure import energy
from bench.measure.energy import Nvml, Rapl, Unreadable
from tests.bench.conftest import make_cell, make_plan


def domain(root: Path, place: str, name: str, micro: int, most: int = 999_999) -> Path:
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", name), ("energy_uj", micro), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_packages_and_memory_are_added_up_and_parts_of_packages_are_not(tmp_path):
    for place, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram")):
        domain(tmp_path, place, name, 100)
    meter = Rapl(tmp_path)
    assert meter.source == "rapl:package-0+dram"
    domain(tmp_path, "intel-rapl:0", "package-0", 200_100)
    domain(tmp_path, "intel-rapl:0:0", "core", 150_100)
    domain(tmp_path, "intel-rapl:0:1", "dram", 50_100)
    assert meter.lap() == pytest.approx(0.25)
    assert meter.lap() == 0.0


def test_a_counter_that_begins_anew(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 999_000)
    meter = Rapl(tmp_path)
    domain(tmp_path, "intel-rapl:0", "package-0", 1_000)
    assert meter.lap() == pytest.approx(0.002)


def test_no_counter_and_one_that_may_not_be_read_say_so(tmp_path, monkeypatch):
    with pytest.raises(Unreadable, match="counts no energy"):
        Rapl(tmp_path / "nothing")
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refused(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(Unreadable, match=f"chmod a\\+r {folder}/energy_uj"):
        Rapl(tmp_path)
    with pytest.raises(Unreadable, match="no counter of energy is known"):
        energy.meter("mps")


class FakeCounter:
    """Ten joules a call of the method, five of the baseline, as they are made."""

    source = "fake"

    def __init__(self) -> None:
        self.spent = 0.0

    def lap(self) -> float:
        spent, self.spent = self.spent, 0.0
        return spent


def test_joules_a_call_of_both(monkeypatch):
    counter, ticks = FakeCounter(), itertools.count()

    def case(joules: float) -> SimpleNamespace:
        def call() -> None:
            counter.spent += joules

        return SimpleNamespace(call=call, backend="eager")

    monkeypatch.setattr(energy, "meter", lambda device: counter)
    found = energy.measure(case(10), case(5), "cpu", lambda: next(ticks) / 10)
    assert (found["energy_j"], found["baseline_energy_j"], found["energy_source"]) == (10, 5, "fake")


def test_a_gpu_by_nvml(monkeypatch):
    readings = iter([1000, 3500])
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetHandleByUUID = {"GPU-abc": "the board"}.__getitem__
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: {"the board": next(readings)}[handle]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    assert Nvml("cuda:1").lap() == 2.5

    def unsupported(handle):
        raise nvml.NVMLError("Not Supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = unsupported
    with pytest.raises(Unreadable, match="NVML counts no energy of cuda:1: Not Supported"):
        Nvml("cuda:1")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unreadable, match=r"pip install 'attnbench\[energy\]'"):
        Nvml("cuda:1")


def test_rows_have_the_energy_or_why_not():
    (planned,) = make_plan("method=linear measure.passes=[energy]")
    for found in ({"energy_j": 2.0, "baseline_energy_j": 3.0, "energy_source": "nvml"}, {"energy_note": "why"}):
        record = {**new_record(planned, {}, "run"), "status": "ok", "results": {"energy": found}}
        ((table, row),) = rows_of(record)
        assert table == "efficiency"
        assert {key: row[key] for key in found} == found
    assert "energy" not in make_cell("method=linear").measure.passes  # asked for, as it takes seconds
