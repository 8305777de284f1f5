"""What is in a store, and what of it goes when it gets old or too large."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.kernel.kept import KIND as BUILDS
from pytest_kernelvm.kernel.kept import NOTE
from pytest_kernelvm.kernel.store import ENTRY, Store, remove_tree

# What is only work that is spared the next time.
KEPT = ("builds", "mirrors", "external")
# Interrupted work is left alone while it may go on.
ABANDONED_S = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Something in a store. used_s: seconds since 1970 of its last use. about: in words."""

    kind: str
    digest: str
    path: Path
    size_bytes: int
    used_s: float
    about: str


def items(store: Store) -> tuple[Item, ...]:
    """Return what is in a store, the last used first."""
    found = [*_published(store), *_kept(store)]
    return tuple(sorted(found, key=lambda item: (-item.used_s, item.kind, item.digest)))


def _published(store: Store) -> Iterator[Item]:
    for entry in store.root.glob(f"*/*/{ENTRY}"):
        path = entry.parent
        kind, digest = path.parent.name, path.name
        yield Item(
            kind=kind,
            digest=digest,
            path=path,
            size_bytes=_size_bytes(path),
            used_s=store.last_use(kind, digest),
            about=_words(store, path),
        )


def _words(store: Store, path: Path) -> str:
    try:
        about = store.describe(path)
    except (OSError, ValueError, KeyError):
        return "damaged"
    names = ("first_cell", "release", "source", "package", "url", "compiler", "arch")
    return " ".join(dict.fromkeys(str(about[name]) for name in names if about.get(name)))


def _kept(store: Store) -> Iterator[Item]:
    for kind in KEPT:
        for path in sorted((store.root / kind).glob("*")):
            note = path / (NOTE if kind == BUILDS else "files.json")
            try:
                used_s = (note if note.is_file() else path).stat().st_mtime
            except OSError:
                continue
            about = "" if note.is_file() else "interrupted"
            yield Item(
                kind=kind,
                digest=path.name,
                path=path,
                size_bytes=_size_bytes(path),
                used_s=used_s,
                about=about,
            )


def _size_bytes(directory: Path) -> int:
    """Return what removing a directory frees, roughly: a file with several names counts in part."""
    total = 0
    for below, _names, files in os.walk(directory):
        for name in files:
            try:
                about = os.lstat(f"{below}/{name}")
            except OSError:
                continue
            total += about.st_blocks * 512 // about.st_nlink
    return total


def collect_garbage(
    store: Store, *, older_than_s: float | None = None, most_bytes: int | None = None
) -> tuple[Item, ...]:
    """Remove what was not used for longest, by age and down to a size; return what is gone.

    older_than_s: seconds since the last use. most_bytes: what may stay. What somebody uses or
    makes right now stays.
    """
    now = time.time()
    gone = []
    total = 0
    for item in items(store):
        total += item.size_bytes
        old = older_than_s is not None and now - item.used_s > older_than_s
        much = most_bytes is not None and total > most_bytes
        if (old or much) and _remove(store, item):
            total -= item.size_bytes
            gone.append(item)
    _forget_requests(store)
    _remove_abandoned(store, now)
    return tuple(gone)


def _remove(store: Store, item: Item) -> bool:
    if item.kind not in KEPT:
        return store.remove(item.kind, item.digest)
    with store.lock_if_free(f"{item.kind}-{item.digest}") as ours:
        if ours:
            remove_tree(item.path)
        return ours


def _forget_requests(store: Store) -> None:
    """Remove notes of kernels that are gone."""
    for path in (store.root / "requests").glob("*.json"):
        try:
            kernel = json.loads(path.read_bytes())["kernel"]
        except (OSError, ValueError, KeyError, TypeError):
            kernel = ""
        if not kernel or not store.path("kernels", kernel).is_dir():
            path.unlink(missing_ok=True)


def _remove_abandoned(store: Store, now: float) -> None:
    """Remove what an interrupted process left in its working directory."""
    for path in (store.root / "tmp").glob("*"):
        with store.lock_if_free(path.name.removeprefix("build-")) as ours:
            if ours and now - path.stat().st_mtime > ABANDONED_S:
                remove_tree(path)


def verify(store: Store) -> dict[Item, tuple[str, ...]]:
    """Return the damaged entries and what is wrong with each, by the digests of their files."""
    found = {}
    for item in items(store):
        if item.kind not in KEPT:
            faults = store.damage(item.kind, item.digest)
            if faults:
                found[item] = faults
    return found
