"""What is in a store, and what of it goes when it gets old or too large."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.store.digest import Digest, NotADigest, file_digest
from pytest_kernelvm.store.kernel_note import requested_kernel
from pytest_kernelvm.store.note import ENTRY, OTHER_BYTES
from pytest_kernelvm.store.store import (
    ARCHIVES,
    BUILD_NOTE,
    BUILDS,
    LOCKS,
    LOGS,
    REQUESTS,
    TEMPORARY,
    USES,
    Store,
)
from pytest_kernelvm.store.writing import remove_tree

# What is only work that is spared the next time.
KEPT = (BUILDS, "mirrors", "external")
# Directories whose contents are no entries, whatever they are called.
_NO_ENTRIES = (*KEPT, ARCHIVES, LOCKS, LOGS, REQUESTS, TEMPORARY, USES, "apt", "failures", "git")
_NOT_AN_ENTRY = "this is not the name of an entry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Something in a store. used_s: seconds since 1970 of its last use. about: in words.

    digest: its name; not that of an entry if somebody else put it there.
    """

    kind: str
    digest: str
    path: Path
    size_bytes: int
    used_s: float
    about: str


def items(store: Store) -> tuple[Item, ...]:
    """Return what is in a store, the last used first."""
    found = [*_published(store), *_archives(store), *_kept(store)]
    return tuple(sorted(found, key=lambda item: (-item.used_s, item.kind, item.digest)))


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.is_dir())
    except OSError:
        return []


def _published(store: Store) -> Iterator[Item]:
    """Give all directories where entries are, those without a note too."""
    for kind in _directories(store.root):
        for path in _directories(kind) if kind.name not in _NO_ENTRIES else ():
            digest = _digest(path.name)
            if digest or (path / ENTRY).exists():
                yield Item(
                    kind=kind.name,
                    digest=path.name,
                    path=path,
                    size_bytes=_size_bytes(path),
                    used_s=store.last_use(kind.name, digest) if digest else 0.0,
                    about=_words(store, path),
                )


def _digest(name: str) -> Digest | None:
    try:
        return Digest(name)
    except NotADigest:
        return None


def _archives(store: Store) -> Iterator[Item]:
    for path in sorted((store.root / ARCHIVES).glob("*.cpio*")):
        digest = _digest(path.name.partition(".")[0])
        with contextlib.suppress(OSError):
            if digest:
                yield Item(
                    kind=ARCHIVES,
                    digest=digest,
                    path=path,
                    size_bytes=path.stat().st_size,
                    used_s=store.last_use(ARCHIVES, digest, path),
                    about="",
                )


def _words(store: Store, path: Path) -> str:
    try:
        about = store.describe(path)
    except (OSError, Malformed):
        return "damaged"
    names = ("first_cell", "release", "source", "package", "url", "compiler", "arch")
    said = " ".join(dict.fromkeys(str(about[name]) for name in names if about.get(name)))
    return "".join(each if each.isprintable() else "?" for each in said)


def _kept(store: Store) -> Iterator[Item]:
    for kind in KEPT:
        for path in sorted((store.root / kind).glob("*")):
            note = path / (BUILD_NOTE if kind == BUILDS else "files.json")
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
    _forget_uses(store)
    store.clear_abandoned()
    return tuple(gone)


def _remove(store: Store, item: Item) -> bool:
    """Remove an item unless somebody uses it; the one way in which things leave a store."""
    digest = _digest(item.digest)
    if digest is None:
        # Nobody who asks for entries can have found it.
        remove_tree(item.path)
        return True
    if item.kind not in KEPT:
        return store.remove(item.kind, digest, item.path)
    with store.lock_if_free(f"{item.kind}-{digest}") as ours, store.disk_errors():
        if ours:
            remove_tree(item.path)
        return ours


def remove_items(store: Store, found: Sequence[Item]) -> tuple[Item, ...]:
    """Remove what nobody uses of some items; return what stays."""
    return tuple(item for item in found if not _remove(store, item))


def _forget_requests(store: Store) -> None:
    """Remove notes of kernels that are gone."""
    with contextlib.suppress(FileNotFoundError):
        for path in (store.root / REQUESTS).iterdir():
            kernel = requested_kernel(path)
            if kernel is None or not store.path("kernels", kernel).is_dir():
                remove_tree(path)


def _forget_uses(store: Store) -> None:
    """Remove notes of use by nobody who lives, of what is not there any more."""
    archives = {path.name.partition(".")[0] for path in (store.root / ARCHIVES).glob("*.cpio*")}
    for users in _directories(store.root / USES):
        kind, _, name = users.name.rpartition("-")
        there = (store.root / kind / name).exists() or (kind == ARCHIVES and name in archives)
        if kind and not there and not store.in_use(kind, name):
            remove_tree(users)


# Cleaning


def clean(store: Store, kinds: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Remove all of some directories of a store that nobody uses.

    Gives each that is there, with how many things in it stay, as somebody uses them.
    """
    found = items(store)
    for kind in kinds:
        directory = store.root / kind
        if directory.is_dir():
            stay = len(remove_items(store, [item for item in found if item.kind == kind]))
            stay += _clean_rest(store, directory, {item.path for item in found})
            with contextlib.suppress(OSError):
                directory.rmdir()
            yield directory, stay
    _forget_uses(store)
    with contextlib.suppress(OSError):
        (store.root / USES).rmdir()


def _clean_rest(store: Store, directory: Path, known: set[Path]) -> int:
    """Remove what is no item of a directory; return how much of it stays."""
    if directory.name == TEMPORARY:
        store.clear_abandoned()
    elif directory.name == REQUESTS:
        _forget_requests(store)
    else:
        for path in directory.iterdir():
            if path not in known and not store.in_use(directory.name, path.name):
                remove_tree(path)
        return sum(1 for path in directory.iterdir() if path not in known)
    return sum(1 for _path in directory.iterdir())


def made_of(store: Store, kernel: Digest) -> tuple[Item, ...]:
    """Return a kernel of a store and what is of use with it alone: its trees and snapshots."""
    return tuple(
        item
        for item in items(store)
        if (item.kind in ("kernels", "devel") and item.digest == kernel)
        or (item.kind in ("trees", "snapshots") and _about(store, item).get("kernel") == kernel)
    )


def _about(store: Store, item: Item) -> dict[str, Any]:
    try:
        return store.describe(item.path)
    except (OSError, Malformed):
        return {}


def clean_kernel(store: Store, kernel: Digest) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Remove a kernel and what is of use with it alone; return what is gone and what is in use."""
    found = made_of(store, kernel)
    stay = remove_items(store, found)
    _forget_requests(store)
    return tuple(item for item in found if item not in stay), stay


# Damage


def verify(store: Store) -> dict[Item, tuple[str, ...]]:
    """Return the damaged items and what is wrong with each, by the digests of their files."""
    found = {}
    for item in items(store):
        faults = _faults(store, item)
        if faults:
            found[item] = faults
    for path in sorted((store.root / REQUESTS).glob("*.json")):
        if requested_kernel(path) is None:
            found[_request(path)] = ("it names no kernel",)
    return found


def _faults(store: Store, item: Item) -> tuple[str, ...]:
    if item.kind in KEPT:
        return ()
    digest = _digest(item.digest)
    if digest is None:
        return (_NOT_AN_ENTRY,)
    if item.kind != ARCHIVES:
        return store.damage(item.kind, digest)
    try:
        return () if file_digest(item.path) == digest else (OTHER_BYTES,)
    except OSError as error:
        return (error.strerror or str(error),)


def _request(path: Path) -> Item:
    return Item(kind=REQUESTS, digest=path.name, path=path, size_bytes=0, used_s=0.0, about="")
