"""What an adapter needs and may not have."""

import sys
import types

import pytest
import torch

from methods.adapters.optional import Unavailable, require


def test_a_missing_package_is_named_with_how_to_get_it():
    with pytest.raises(Unavailable, match=r"^needs the package no-such .pip install no-such.: No mod") as caught:
        require("no_such_package.deep", "no-such")
    assert "\n" not in str(caught.value)
    with pytest.raises(Unavailable, match="needs the package no_such_package "):
        require("no_such_package.deep")


def test_a_package_that_breaks_at_import_is_unavailable_too(tmp_path, monkeypatch):
    (tmp_path / "built_for_another_torch.py").write_text("raise OSError('undefined symbol:\\n _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match=r"importing built_for_another_torch failed .*OSError: undefined symbol"):
        require("built_for_another_torch")


def test_what_a_package_makes_at_import_is_real_although_plans_build_on_the_meta_device(tmp_path, monkeypatch):
    (tmp_path / "makes_a_tensor.py").write_text("import torch\nTENSOR = torch.zeros(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with torch.device("meta"):
        assert require("makes_a_tensor").TENSOR.device.type == "cpu"


def test_an_installed_package_is_returned(monkeypatch):
    monkeypatch.setitem(sys.modules, "installed_one", types.ModuleType("installed_one"))
    assert require("installed_one") is sys.modules["installed_one"]
