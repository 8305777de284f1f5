"""What is in a store: kind, name, size and last use of each thing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.store.digest import Digest, NotADigest
from pytest_kernelvm.store.kinds import BUILDS, KINDS, Form, Kind, kind_of
from pytest_kernelvm.store.metadata import ENTRY
from pytest_kernelvm.store.store import Store

_BLOCK_BYTES = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Something in a store.

    Attributes:
        kind: What it is.
        digest: Its name; no digest if somebody else put it there, or if it is of a kind with
            readable names.
        path: Its directory or file.
        size_bytes: What removing it frees, roughly.
        used_s: Time of its last use in seconds since 1970; 0 if that is not known.
        about: What it is, in words for a list.
    """

    kind: Kind
    digest: str
    path: Path
    size_bytes: int
    used_s: float
    about: str


def items(store: Store) -> tuple[Item, ...]:
    """Return what `gc` may remove from a store, the last used first."""
    kinds = [kind_of(path.name) for path in directories(store.root)]
    found = [item for kind in kinds if kind.collected for item in _items(store, kind)]
    return _ordered(found)


def items_of(store: Store, kind: Kind) -> tuple[Item, ...]:
    """Return the things of one kind in a store, the last used first."""
    return _ordered(_items(store, kind))


def _ordered(found: list[Item]) -> tuple[Item, ...]:
    return tuple(sorted(found, key=lambda item: (-item.used_s, item.kind.name, item.digest)))


def _items(store: Store, kind: Kind) -> list[Item]:
    return list(_LISTED[kind.form](store, kind))


def directories(path: Path) -> list[Path]:
    """Return the directories in a directory; none if it is not there."""
    try:
        return sorted(each for each in path.iterdir() if each.is_dir())
    except OSError:
        return []


def as_digest(name: str) -> Digest | None:
    """Return a name as the digest that it is; None if it is none.

    Args:
        name: Of a file or directory.
    """
    try:
        return Digest(name)
    except NotADigest:
        return None


def described(store: Store, item: Item) -> dict[str, Any]:
    """Return what was recorded about an entry; nothing if that is damaged."""
    try:
        return store.describe(item.path)
    except (OSError, Malformed):
        return {}


def _entries(store: Store, kind: Kind) -> Iterator[Item]:
    """Give all directories where entries are."""
    is_known = kind in KINDS
    for path in directories(store.place(kind)):
        digest = as_digest(path.name)
        has_metadata = (path / ENTRY).exists()
        # Of an unknown kind, a directory without metadata may be somebody else's.
        if (digest and has_metadata) or (is_known and (digest or has_metadata)):
            yield Item(
                kind=kind,
                digest=path.name,
                path=path,
                size_bytes=_size_bytes(path),
                used_s=store.last_use(kind, digest) if digest else 0.0,
                about=_words(store, path),
            )


def _archives(store: Store, kind: Kind) -> Iterator[Item]:
    for path in sorted(store.place(kind).glob("*.*")):
        digest = as_digest(path.name.partition(".")[0])
        with contextlib.suppress(OSError):
            if digest:
                yield Item(
                    kind=kind,
                    digest=digest,
                    path=path,
                    size_bytes=path.stat().st_size,
                    used_s=store.last_use(kind, digest, path),
                    about="",
                )


def _work(store: Store, kind: Kind) -> Iterator[Item]:
    for path in directories(store.place(kind)):
        note = path / kind.note
        is_whole = note.is_file()
        with contextlib.suppress(OSError):
            yield Item(
                kind=kind,
                digest=path.name,
                path=path,
                size_bytes=(kind == BUILDS and _noted_bytes(note)) or _size_bytes(path),
                used_s=(note if is_whole else path).stat().st_mtime,
                about="" if is_whole else "interrupted",
            )


def _named(store: Store, kind: Kind) -> Iterator[Item]:
    for path in directories(store.place(kind)):
        with contextlib.suppress(OSError):
            yield Item(
                kind=kind,
                digest=path.name,
                path=path,
                size_bytes=_size_bytes(path),
                used_s=path.stat().st_mtime,
                about="",
            )


_LISTED = {Form.ENTRY: _entries, Form.ARCHIVE: _archives, Form.WORK: _work, Form.NAMED: _named}


def _words(store: Store, path: Path) -> str:
    try:
        about = store.describe(path)
    except (OSError, Malformed):
        return "damaged"
    names = ("first_cell", "release", "source", "package", "url", "compiler", "arch")
    said = " ".join(dict.fromkeys(str(about[name]) for name in names if about.get(name)))
    return "".join(each if each.isprintable() else "?" for each in said)


def _noted_bytes(note: Path) -> int:
    """Return the size of a build directory as its last build has recorded it; 0 for none."""
    try:
        return int(json.loads(note.read_bytes())["size_bytes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0


def _size_bytes(directory: Path) -> int:
    """Return what removing a directory frees, roughly: a file with several names counts in part."""
    total = 0
    for below, _names, files in os.walk(directory):
        for name in files:
            try:
                about = os.lstat(f"{below}/{name}")
            except OSError:
                continue
            total += about.st_blocks * _BLOCK_BYTES // about.st_nlink
    return total
