"""The cache on disk of generated data, and the identity of an example.

A set is kept under a hash of its parameters, its seed and the source code that makes it, so that an
edited generator never hands out old data (`datasets`' own cache does: it does not see an edit in an
importable module).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from tasks.base import Examples, SplitName, Task

Array = NDArray[Any]
#: Columns of equal length, each `[n]` or `[n, width]`.
Table = dict[str, Array]

CACHE_VARIABLE = "ATTNBENCH_CACHE"
_MANIFEST = "attnbench.json"
_DIGEST_ROWS = 1024  # converted at once
#: Numbers in one piece of a column of lists, whose offsets are of 32 bits.
ARROW_NUMBERS = 2**31 - 1


class CacheWarning(UserWarning):
    """The cache is damaged or cannot be written; the data are made nevertheless."""


class DamagedCacheError(ValueError):
    """What lies in the cache is not what was written there."""


def row_digests(rows: Array) -> list[bytes]:
    """One 16-byte hash a row of `rows` `[n, width]`."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.ascontiguousarray(rows)]


def content_hashes(examples: Examples) -> list[bytes]:
    """One hash an example, of its tokens and nothing else: what disjoint splits must not share."""
    return row_digests(examples.tokens.numpy())


def joined(parts: Iterable[Table]) -> Table:
    """The tables one below the other; each column of the parts is given up as it is copied."""
    kept = list(parts)
    table: Table = {}
    for name in list(kept[0]):
        columns = [part.pop(name) for part in reversed(kept)]
        whole = np.empty((sum(map(len, columns)), *columns[0].shape[1:]), dtype=columns[0].dtype)
        end = 0
        while columns:
            column = columns.pop()
            whole[end : end + len(column)] = column
            end += len(column)
        table[name] = whole
    return table


def data_digest(task: Task) -> str:
    """16 hexadecimal digits of all three splits' content, the same whatever integer types hold it."""
    digest = hashlib.sha256()
    for split in get_args(SplitName):
        examples = task.examples(split)
        tags = {f"tag {name}": tag for name, tag in (examples.tags or {}).items()}
        columns = {**vars(examples), **tags}
        for name, tensor in columns.items():
            if not isinstance(tensor, Tensor):
                continue
            width = "<f8" if tensor.is_floating_point() else "u1" if _fits_a_byte(tensor) else "<i8"
            digest.update(f"{split} {name} {tuple(tensor.shape)} {width}\n".encode())
            for part in torch.split(tensor, _DIGEST_ROWS):
                digest.update(np.ascontiguousarray(part.numpy(), dtype=width).data)
    return digest.hexdigest()[:16]


def _fits_a_byte(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and int(tensor.min()) >= 0 and int(tensor.max()) < 256


def cache_root() -> Path:
    """`$ATTNBENCH_CACHE`, else `attnbench` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "attnbench"


def source_version(modules: Iterable[str]) -> str:
    """Hash of the source files of importable `modules`; OSError when one has no source file."""
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        file = getattr(importlib.import_module(name), "__file__", None)
        if file is None:
            raise OSError(f"module {name} has no source file")
        digest.update(name.encode() + b"\0" + Path(file).read_bytes() + b"\0")
    return digest.hexdigest()


def cached(name: str, identity: Mapping[str, object], sources: Iterable[str], build: Callable[[], Table]) -> Table:
    """The table `build()` makes, from the cache if it is there, else made now and stored.

    identity: everything the data depend on, as JSON values: parameters and seed.
    sources: names of the modules whose code makes the data.

    Processes that ask at the same time build once. A damaged entry is made again, and a cache
    that cannot be written is done without, each with one warning.
    """
    try:
        folder = cache_root() / name / _key(identity, sources)
        # entries appear whole, by one rename, so reading needs no lock (nor a writable folder)
        if (table := _load_or_warn(folder)) is not None:
            return table
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        lock.acquire()
    except (OSError, RuntimeError, NotImplementedError) as error:  # no home folder; no locks there
        _warn_unusable(name, error)
        return build()
    try:
        try:
            if folder.is_dir():  # somebody else was faster
                return _load(folder)
        except DamagedCacheError:
            pass  # warned of already
        table = build()
        try:
            _store(folder, table, identity)
        except OSError as error:
            _warn_unusable(name, error)
        return table
    finally:
        lock.release()


def _key(identity: Mapping[str, object], sources: Iterable[str]) -> str:
    text = json.dumps({"identity": dict(identity), "source": source_version(sources)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _warn_unusable(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split())
    warnings.warn(
        f"{name}: the data cache cannot be used ({type(error).__name__}: {reason}); generating in memory. "
        f"Set {CACHE_VARIABLE} to a writable folder with free space to keep generated data.",
        CacheWarning,
        stacklevel=3,
    )


def _load_or_warn(folder: Path) -> Table | None:
    if not folder.is_dir():
        return None
    try:
        return _load(folder)
    except DamagedCacheError as error:
        warnings.warn(f"{error}; generating it again", CacheWarning, stacklevel=3)
        return None


def _checksum(table: Table) -> str:
    digest = hashlib.sha256()
    for name, column in sorted(table.items()):
        digest.update(f"{name} {column.dtype.str} {column.shape}\n".encode())
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _load(folder: Path) -> Table:
    import datasets  # costs a second: only here

    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        stored = datasets.load_from_disk(str(folder))
        table = {name: _from_arrow(stored.data.column(name).chunks) for name in stored.column_names}
        intact = _checksum(table) == manifest["checksum"]
    except Exception as error:  # whatever the reader stumbles over, the entry is not as written
        reason = " ".join(str(error).split())
        raise DamagedCacheError(f"damaged cache entry {folder} ({type(error).__name__}: {reason})") from error
    if not intact:
        raise DamagedCacheError(f"damaged cache entry {folder} (checksum differs)")
    return table


def _from_arrow(chunks: Sequence[Any]) -> Array:
    """The numbers of an Arrow column, `[n]`, or `[n, width]` of lists; copied only when chunks are several."""
    nested = "list" in str(chunks[0].type)
    parts = [(chunk.flatten() if nested else chunk).to_numpy(zero_copy_only=False) for chunk in chunks]
    values = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return values.reshape(sum(map(len, chunks)), -1) if nested else values


def _to_datasets(table: Table) -> Any:
    """The table as one data set of parts, in none of which a column has more numbers than Arrow can count."""
    import datasets

    rows = len(next(iter(table.values())))
    widest = max(column[:1].size for column in table.values())
    step = max(1, ARROW_NUMBERS // max(1, widest))
    parts = [
        {name: column[at : at + step] for name, column in table.items()} for at in range(0, max(1, rows), step)
    ]
    return datasets.concatenate_datasets([datasets.Dataset.from_dict(part) for part in parts])


def _store(folder: Path, table: Table, identity: Mapping[str, object]) -> None:
    import datasets

    for left in folder.parent.glob(f".{folder.name}.*"):  # by processes that were killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    quiet_before = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        _to_datasets(table).save_to_disk(str(partial))
        manifest = {"checksum": _checksum(table), "identity": dict(identity)}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(folder, ignore_errors=True)  # the damaged one, if any
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not quiet_before:
            datasets.enable_progress_bars()
