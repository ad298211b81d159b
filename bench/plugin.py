"""Classes named in a configuration: import them by dotted path, check parameters against the signature.

Standard library only, so that anything may import it. All errors are one-line ValueErrors.
"""

from __future__ import annotations

import collections.abc
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

_SEQUENCES = (tuple, list, collections.abc.Sequence)


class _Mismatch(Exception):
    """A value that is not of the annotated type."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def load_class(target: str, base: type[Any], kind: str, known: Mapping[str, str] | None = None) -> type[Any]:
    """The class that `target` names: a short name in `known`, or a dotted path `package.module.Class`.

    ValueError when the path cannot be imported, or is not a concrete subclass of `base`; `kind` is
    the word for it in the message ("task").
    """
    known = known or {}
    path = known.get(target, target)
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise ValueError(
            f"{kind} {target!r}: unknown{did_you_mean(target, known)}; "
            f"known: {', '.join(sorted(known)) or 'none'}; or a dotted path such as my_package.MyClass"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may fail in any way; say how, in one line
        raise ValueError(
            f"{kind} {target!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ValueError(
            f"{kind} {target!r}: {module_name} has no {class_name}{did_you_mean(class_name, vars(module))}"
        )
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{kind} {target!r}: not a subclass of {base.__module__}.{base.__qualname__}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ValueError(f"{kind} {target!r}: abstract, it does not define {missing}")
    return found


def parameters(cls: type[Any], reserved: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The constructor's named parameters, without self, `*args`, `**kwargs` and the `reserved` ones."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(cls)
    return {n: p for n, p in signature.parameters.items() if p.kind not in variadic and n not in reserved}


def check_parameters(
    cls: type[Any], params: Mapping[str, object], kind: str, reserved: Collection[str] = ()
) -> dict[str, Any]:
    """`params` as the constructor of `cls` wants them: a float for a whole number, a tuple for a list.

    Names and types are those of the constructor's signature; `reserved` names are given by the
    harness, not by the user. Checked: int, float, bool, str, None, Literal, unions, tuples and
    lists of them; other annotations pass. ValueError names the key as `kind.name`, the value and
    what is allowed. A bool is never an int.
    """
    accepted = parameters(cls, reserved)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())
    try:
        hints = typing.get_type_hints(cls.__init__, include_extras=True)
    except NameError:  # annotations imported for type checkers only: names are checked, types are not
        hints = {}
    checked: dict[str, Any] = {}
    for name, value in params.items():
        if name in reserved:
            raise ValueError(f"{kind}.{name}={value!r}: set by the harness, not a parameter of the {kind}")
        if name not in accepted and not open_ended:
            raise ValueError(
                f"{kind}.{name}={value!r}: {cls.__name__} has no such parameter"
                f"{did_you_mean(name, accepted)}; allowed: {', '.join(accepted) or 'none'}"
            )
        try:
            checked[name] = _convert(value, hints.get(name, Any))
        except _Mismatch:
            raise ValueError(f"{kind}.{name}={value!r}: expected {_describe(hints[name], value)}") from None
    missing = [n for n, p in accepted.items() if p.default is p.empty and n not in checked]
    if missing:
        raise ValueError(f"{kind}.{missing[0]}: missing; {cls.__name__} needs {', '.join(missing)}")
    return checked


@contextmanager
def naming(prefix: str, params: Collection[str]) -> Iterator[None]:
    """A ValueError that begins with one of `params`, as in `window=0: expected ...`, gets the key's full name."""
    try:
        yield
    except ValueError as error:
        if str(error).partition("=")[0] in params:
            raise ValueError(f"{prefix}.{error}") from error
        raise


def defaults(cls: type[Any], reserved: Collection[str] = ()) -> dict[str, Any]:
    """The constructor's default values, by parameter."""
    accepted = parameters(cls, reserved)
    return {name: p.default for name, p in accepted.items() if p.default is not p.empty}


def _convert(value: object, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        if any(getattr(mark, "per_layer", False) for mark in args[1:]) and isinstance(value, list | tuple):
            return tuple(_convert(item, args[0]) for item in value)
        return _convert(value, args[0])
    if origin is Literal:
        # 1 == True, so compare types as well
        return _require(value, any(value == a and type(value) is type(a) for a in args))
    if origin in (typing.Union, types.UnionType):
        for arm in args:
            # an int stays an int where the union has one, whatever the order
            if type(value) is arm:
                return value
        for arm in args:
            try:
                return _convert(value, arm)
            except _Mismatch:
                continue
        raise _Mismatch
    if (origin or hint) in _SEQUENCES:
        return _convert_sequence(value, origin or hint, args)
    if hint is None or hint is type(None):
        return _require(value, value is None)
    if hint is float:
        number = _require(value, isinstance(value, int | float) and not isinstance(value, bool))
        return float(number)
    if hint is int:
        return _require(value, isinstance(value, int) and not isinstance(value, bool))
    if hint is bool or hint is str:
        return _require(value, isinstance(value, hint))
    return value


def _convert_sequence(value: object, container: Any, args: tuple[Any, ...]) -> Any:
    _require(value, isinstance(value, collections.abc.Sequence) and not isinstance(value, str | bytes))
    items = list(typing.cast("collections.abc.Sequence[object]", value))
    if not args:
        converted = items
    elif container is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        _require(value, len(items) == len(args))
        converted = [_convert(item, arg) for item, arg in zip(items, args, strict=True)]
    else:
        converted = [_convert(item, args[0]) for item in items]
    return tuple(converted) if container is tuple else converted


def _require(value: object, holds: bool) -> Any:
    if not holds:
        raise _Mismatch
    return value


def _describe(hint: Any, value: object) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        many = any(getattr(mark, "per_layer", False) for mark in args[1:])
        return _describe(args[0], value) + (", or a list with one for each layer" if many else "")
    if origin is Literal:
        words = [a for a in args if isinstance(a, str)]
        hinted = did_you_mean(value, words) if isinstance(value, str) else ""
        return f"one of {', '.join(map(repr, args))}{hinted}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arm, value) for arm in args)
    if hint is None or hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not args else str(hint)
