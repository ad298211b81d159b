"""Every YAML file composes, and says what the class it configures says."""

from pathlib import Path

import pytest

from bench.compose import Composer, available, hydra_context
from bench.plugin import defaults
from bench.ranges import RANGES
from bench.resolve import RESERVED, cell_from_config, method_class
from bench.schema import GROUPS, Config
from methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_every_group_composes(group):
    files = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    with hydra_context():
        assert set(available(group)) == files
        for name in files - {"custom"}:
            line = [f"{group}={name}", *(["level=core"] if name == "error" else [])]
            cfg = Composer().compose(line)
            assert cfg[group].name == (None if (group, name) == ("sweep", "none") else name)
            cell_from_config(cfg)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_yaml_spells_its_constructor_s_defaults(name):
    with hydra_context():
        node = Composer().compose([f"method={name}"]).method
    assert node._target_ == METHODS[name]
    params = {key: value for key, value in node.items() if key not in ("name", "_target_")}
    assert params == defaults(method_class(name), RESERVED["method"])


def test_ranges_name_keys_that_exist():
    from dataclasses import fields
    from typing import get_type_hints

    for key in RANGES:
        owner: type = Config
        for part in key.split("."):
            assert part in {field.name for field in fields(owner)}, key
            owner = get_type_hints(owner)[part]


def test_the_readme_of_the_configuration_names_every_key():
    text = (ROOT / "conf" / "README.md").read_text()
    keys = {key.rpartition(".")[2] for key in RANGES} | {
        "run",
        "results_dir",
        "rerun",
        "isolation",
        "level",
        "mode",
    }
    assert not [key for key in keys if f"`{key}`" not in text]
    for group in GROUPS:
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{path.stem}`" in text, path
