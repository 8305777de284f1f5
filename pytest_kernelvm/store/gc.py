"""What goes from a store: by age, by size, by its kind's limits, or all of some kinds.

All that is removed while it may be in use goes through here. A thing stays as long as a living
process has recorded that it uses it (owners.py), or holds its lock to make it or to work in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.inventory import (
    Item,
    as_digest,
    described,
    directories,
    items,
    items_of,
)
from pytest_kernelvm.store.kernel_metadata import requested_kernel
from pytest_kernelvm.store.kinds import (
    DEVEL,
    INITRAMFS,
    KERNELS,
    LOCKS,
    MODULE_TREES,
    PART,
    REQUESTS,
    SNAPSHOTS,
    TEMPORARY,
    USES,
    Form,
    Kind,
    Limits,
    kind_of,
)
from pytest_kernelvm.store.owners import used_by_others
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import STORE_VARIABLE, remove_tree


def _require_store(store: Store) -> None:
    """Refuse a directory in which no store ever was: its `git` or `logs` are somebody else's."""
    has_been_used = any(store.place(kind).is_dir() for kind in (LOCKS, USES))
    if directories(store.root) and not has_been_used:
        raise BadInput(
            f"{store.root} is no store",
            Evidence(
                expected=f"a directory with {LOCKS} or {USES} in it, as every store has",
                next_step=f"name the store with --store or {STORE_VARIABLE}",
            ),
        )


def collect_garbage(
    store: Store, *, older_than_s: float | None = None, most_bytes: int | None = None
) -> tuple[Item, ...]:
    """Remove what was not used for longest, by age and down to a size.

    What somebody uses or makes right now stays.

    Raises BadInput if the store is not writable, or if it is none.

    Args:
        store: Where to remove.
        older_than_s: What was not used for so many seconds goes; None for any age.
        most_bytes: What may stay in all; None for any size.

    Returns:
        What is gone.
    """
    _require_store(store)
    limits = Limits(most_bytes=most_bytes, most_age_s=older_than_s)
    gone = _evict(store, items(store), limits)
    _forget_requests(store)
    _forget_uses(store)
    store.clear_abandoned()
    return gone


def evict(
    store: Store,
    kind: Kind,
    *,
    limits: Limits | None = None,
    room: int = 0,
    spared: Collection[str] = (),
    last: Collection[str] = (),
) -> tuple[Item, ...]:
    """Remove what was not used for longest of a kind, until it is within its limits.

    What somebody uses or makes right now stays.

    Raises BadInput if the store is not writable.

    Args:
        store: Where to remove.
        kind: What to remove.
        limits: Others than the kind's own.
        room: How many things are about to be added.
        spared: Names of what stays.
        last: Names of what goes only when all others are gone.

    Returns:
        What is gone.
    """
    found = items_of(store, kind)
    ranked = [item for item in found if item.digest not in spared and item.digest in last]
    ranked += [item for item in found if item.digest not in spared and item.digest not in last]
    staying = [item for item in found if item.digest in spared]
    return _evict(store, [*staying, *ranked], limits or kind.limits, room, len(staying))


def _evict(
    store: Store, ranked: Sequence[Item], limits: Limits, room: int = 0, spared: int = 0
) -> tuple[Item, ...]:
    """Remove the last of some items until the others are within limits; the first `spared` stay."""
    now = time.time()
    count, total = len(ranked) + room, sum(item.size_bytes for item in ranked)
    gone = []
    for item in reversed(ranked[spared:]):
        many = limits.most is not None and count > limits.most
        much = limits.most_bytes is not None and total > limits.most_bytes
        old = limits.most_age_s is not None and now - item.used_s > limits.most_age_s
        if (many or much or old) and _remove(store, item):
            count -= 1
            total -= item.size_bytes
            gone.append(item)
    return tuple(reversed(gone))


def _remove(store: Store, item: Item) -> bool:
    """Remove an item unless somebody uses it; return whether it is gone."""
    if item.kind.form in (Form.ENTRY, Form.ARCHIVE) and as_digest(item.digest) is None:
        # No process can have found it: its name is no digest.
        remove_tree(item.path)
        return True
    return store.remove(item.kind, item.digest, item.path)


def remove_items(store: Store, found: Sequence[Item]) -> tuple[Item, ...]:
    """Remove those of some items that nobody uses.

    Raises BadInput if the store is not writable, or if it is none.

    Args:
        store: Where they are.
        found: The items.

    Returns:
        What stays, as somebody uses it.
    """
    _require_store(store)
    return tuple(item for item in found if not _remove(store, item))


def _forget_requests(store: Store) -> None:
    """Remove records of requests whose kernels are gone."""
    with contextlib.suppress(FileNotFoundError):
        for path in store.place(REQUESTS).iterdir():
            kernel = requested_kernel(path)
            if kernel is None or not store.path(KERNELS, kernel).is_dir():
                remove_tree(path)


def _forget_uses(store: Store) -> None:
    """Remove records of uses by dead processes, of what is not there any more."""
    archives = {path.name.partition(".")[0] for path in store.place(INITRAMFS).glob("*.*")}
    for users in directories(store.place(USES)):
        kind_name, _, name = users.name.rpartition("-")
        if not kind_name:
            continue
        kind = kind_of(kind_name)
        there = (store.place(kind) / name).exists() or (kind == INITRAMFS and name in archives)
        if not there and not used_by_others(users):
            remove_tree(users)


# Cleaning


def clean(store: Store, kinds: Sequence[Kind]) -> Iterator[tuple[Path, int]]:
    """Remove all of some kinds from a store that nobody uses.

    Raises BadInput if the store is not writable, or if it is none.

    Args:
        store: Where to remove.
        kinds: What to remove.

    Yields:
        The directory of each kind that was there, and how many things in it stay, as somebody uses
        them.
    """
    _require_store(store)
    for kind in kinds:
        directory = store.place(kind)
        if directory.is_dir():
            found = items_of(store, kind) if kind.collected else ()
            stay = len(remove_items(store, found))
            stay += _clean_rest(store, kind, {item.path for item in found})
            with contextlib.suppress(OSError):
                directory.rmdir()
            yield directory, stay
    _forget_uses(store)
    with contextlib.suppress(OSError):
        store.place(USES).rmdir()


def _clean_rest(store: Store, kind: Kind, known: set[Path]) -> int:
    """Remove what is no item of a directory; return how much of the store's stays."""
    directory = store.place(kind)

    def rest() -> list[Path]:
        return [
            path
            for path in directory.iterdir()
            if path not in known
            and (not kind.only_digests or as_digest(path.name.removesuffix(PART)))
        ]

    if kind == TEMPORARY:
        store.clear_abandoned()
    elif kind == REQUESTS:
        _forget_requests(store)
    else:
        for path in rest():
            if kind.form is Form.INTERNAL or path.suffix == PART:
                # A process that works there, or downloads it, holds its lock.
                store.remove(kind, path.name.removesuffix(PART), path)
            elif not store.in_use(kind, path.name):
                remove_tree(path)
    return len(rest())


def made_of(store: Store, kernel: Digest) -> tuple[Item, ...]:
    """Return a kernel of a store and what belongs to it alone: its module trees and snapshots."""
    kinds = (KERNELS, DEVEL, MODULE_TREES, SNAPSHOTS)
    return tuple(
        item
        for kind in kinds
        for item in items_of(store, kind)
        if kernel in (item.digest, described(store, item).get("kernel"))
    )


def clean_kernel(store: Store, kernel: Digest) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Remove a kernel and what is of use with it alone.

    Raises BadInput if the store is not writable.

    Args:
        store: Where to remove.
        kernel: The kernel's digest.

    Returns:
        What is gone, and what stays, as somebody uses it.
    """
    found = made_of(store, kernel)
    stay = remove_items(store, found)
    _forget_requests(store)
    return tuple(item for item in found if item not in stay), stay
