"""Composing configurations outside Hydra's own run: fast for many cells, and clear when one is wrong."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.errors import Refused
from bench.schema import GROUPS, Config, register

CONF = Path(__file__).resolve().parents[1] / "conf"

#: The keys that stand alone, outside any group: `seq_len`, `seed`, `mode`, ...
AXES = frozenset(field.name for field in fields(Config)) - set(GROUPS)


class Composer:
    """Composes `config` for lists of overrides; what was composed once is reused.

    Hydra takes 0.2 s a composition, and OmegaConf 50 ms for the rest, which a sweep of thousands of cells cannot
    pay a cell. `settings` pays them once for all that is said about one group, and puts groups and axes together.
    """

    def __init__(self) -> None:
        self._by_hydra: dict[tuple[str, ...], DictConfig] = {}
        self._settings: dict[tuple[str, ...], Config | None] = {}
        self._alone: dict[tuple[str, ...], Config | None] = {}
        self._axes: dict[str, Any] = {}
        self._blank: DictConfig = OmegaConf.structured(Config)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration after `overrides`, in Hydra's grammar. Raises Refused, one line."""
        composed = tuple(item for item in overrides if _is_composed(item))
        values = [item for item in overrides if item not in composed]
        if composed not in self._by_hydra:
            self._by_hydra[composed] = _hydra_compose(list(composed))
        cfg: DictConfig = OmegaConf.create(self._by_hydra[composed])
        for item in values:
            parsed = _parse(item)
            _update(cfg, parsed.key_or_group, parsed.value(), item)
        return cfg

    def settings(self, overrides: Sequence[str]) -> Config:
        """`typed(compose(overrides))`, quickly. Raises Refused."""
        axes = [item for item in overrides if item.split("=", 1)[0] in AXES]
        rest = tuple(item for item in overrides if item not in axes)
        if rest not in self._settings:
            self._settings[rest] = self._by_group(rest) or _plain(self.compose(rest))
        base = self._settings[rest]
        if base is None or any("${" in item for item in axes):
            return typed(self.compose(overrides))
        return replace(base, **{item.split("=", 1)[0]: self._axis(item) for item in axes})

    def _by_group(self, overrides: Sequence[str]) -> Config | None:
        """The settings, from those of each group alone; None where groups depend on each other, or may."""
        groups = defaultdict(list)
        for item in overrides:
            groups[item.split("=", 1)[0].partition(".")[0]].append(item)
        if not groups.keys() <= set(GROUPS):
            return None
        parts = {key: self._only(key, tuple(items)) for key, items in groups.items()}
        defaults = self._defaults()
        if defaults is None or None in parts.values():
            return None
        return replace(defaults, **{key: getattr(found, key) for key, found in parts.items()})

    def _only(self, key: str, items: tuple[str, ...]) -> Config | None:
        """The settings after overrides of one group; None where they change another or refer to one."""
        if items not in self._alone:
            defaults, found = self._defaults(), None
            with suppress(Refused):  # they may need overrides of another group
                found = _plain(self.compose(items))
            alone = found and defaults and replace(found, **{key: getattr(defaults, key)}) == defaults
            self._alone[items] = found if alone else None
        return self._alone[items]

    def _defaults(self) -> Config | None:
        """The settings without overrides."""
        if () not in self._alone:
            self._alone[()] = _plain(self.compose(()))
        return self._alone[()]

    def _axis(self, item: str) -> Any:
        """The value that an override of one axis stands for."""
        if item not in self._axes:
            parsed = _parse(item)
            _update(self._blank, parsed.key_or_group, parsed.value(), item)
            self._axes[item] = self._blank[parsed.key_or_group]
        return self._axes[item]


def typed(cfg: DictConfig) -> Config:
    """A configuration as the dataclasses of bench/schema.py; `method`, which has no type, as a dict."""

    def value(name: str) -> Any:
        node = cfg[name]
        return OmegaConf.to_object(node) if OmegaConf.is_config(node) else node

    method = OmegaConf.to_container(cfg.method, resolve=True)
    return Config(method=method, **{field.name: value(field.name) for field in fields(Config)[1:]})


def _plain(cfg: DictConfig) -> Config | None:
    """The settings; None where one value may refer to another, so that the order in which they are set matters."""
    return None if "${" in OmegaConf.to_yaml(cfg) else typed(cfg)


def _is_composed(override: str) -> bool:
    """Whether Hydra itself has to apply it: a group, an addition or removal, a key of Hydra's own."""
    return key_of(override) in GROUPS or override.startswith(("~", "+", "hydra.", "hydra/"))


def key_of(override: str) -> str:
    """The key of `key=value`, without Hydra's `+`, `++` and `~`."""
    return override.lstrip("+~").split("=", 1)[0]


@contextmanager
def hydra_context(config_dir: str | None = None) -> Iterator[None]:
    """Hydra ready to compose from `conf/`, unless it is already (inside a Hydra job)."""
    register()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(config_dir or CONF), version_base="1.3"):
        yield


def _hydra_compose(overrides: list[str]) -> DictConfig:
    try:
        cfg: DictConfig = compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(explain(error, overrides)) from error
    return cfg


def _parse(item: str) -> Any:
    try:
        parsed = OverridesParser.create().parse_override(item)
    except HydraException as error:
        raise Refused(f"{item}: not of the form key=value ({first_line(error)})") from error
    if parsed.is_sweep_override():
        raise Refused(several_values(item))
    return parsed


def _update(cfg: DictConfig, key: str, value: Any, item: str) -> None:
    """Set one key in place, typed and checked."""
    parent_key, _, leaf = key.rpartition(".")
    parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    if not isinstance(parent, DictConfig) or not (leaf in parent or OmegaConf.is_missing(parent, leaf)):
        raise Refused(unknown_key(cfg, key, item))
    try:
        OmegaConf.update(cfg, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise Refused(f"{item}: {_expected(error)}") from error


def unknown_key(cfg: DictConfig, key: str, item: str) -> str:
    """Why `item` is refused: its key is not there; what is."""
    parent_key, _, leaf = key.rpartition(".")
    parent = OmegaConf.select(cfg, parent_key) if parent_key else cfg
    if not isinstance(parent, DictConfig):
        return f"{item}: there is no key {parent_key!r}; keys: {', '.join(sorted(map(str, cfg)))}"
    known = sorted(str(name) for name in parent if name not in ("_target_", "name", "defaults"))
    close = difflib.get_close_matches(leaf, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    owner = f"{parent_key} ({parent.get('name')})" if parent_key in GROUPS else parent_key or "the configuration"
    return f"{item}: {owner} has no key {leaf!r}{hint}; keys: {', '.join(known) or 'none'}"


def several_values(item: str) -> str:
    """Why `key=a,b` is refused for one job."""
    return f"{item}: several values; with -m (--multirun) each of them runs, and so beside sweep="


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line from a Hydra error: the key, the value and what is allowed."""
    text = str(error)
    for item in overrides:
        if f"Ambiguous value for argument '{item}'" in text:
            return several_values(item)
    for group in GROUPS:
        for item in overrides:
            name = item.split("=", 1)[-1]
            if key_of(item) == group and f"Could not find '{group}/{name}'" in text:
                options = available(group)
                close = difflib.get_close_matches(name, options, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                return f"{item}: unknown {group}{hint}; one of {', '.join(options)}"
    return first_line(error)


def available(group: str) -> list[str]:
    """The names a group offers."""
    loader = GlobalHydra.instance().config_loader()
    names: list[str] = loader.get_group_options(group)
    return names


def first_line(error: Exception) -> str:
    """The first line of a message, with the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join(lines[:2]) if lines else type(error).__name__


def _expected(error: Exception) -> str:
    return str(error).splitlines()[0]


__all__ = ["CONF", "Composer", "Config", "available", "explain", "hydra_context", "key_of", "typed", "unknown_key"]
