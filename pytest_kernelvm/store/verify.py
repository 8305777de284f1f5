"""What is damaged in a store, found by reading all of it."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.store.digest import file_digest
from pytest_kernelvm.store.inventory import Item, as_digest, items
from pytest_kernelvm.store.kernel_metadata import requested_kernel
from pytest_kernelvm.store.kinds import REQUESTS, Form
from pytest_kernelvm.store.metadata import OTHER_BYTES
from pytest_kernelvm.store.store import Store

_NOT_AN_ENTRY = "this is not the name of an entry"


def verify(store: Store) -> dict[Item, tuple[str, ...]]:
    """Return the damaged things in a store.

    Args:
        store: All of it is read.

    Returns:
        What is wrong with each, one text for each fault.
    """
    found = {}
    for item in items(store):
        faults = _faults(store, item)
        if faults:
            found[item] = faults
    for path in sorted(store.place(REQUESTS).glob("*.json")):
        if requested_kernel(path) is None:
            found[_request(path)] = ("it names no kernel",)
    return found


def _faults(store: Store, item: Item) -> tuple[str, ...]:
    if not item.kind.verified:
        return ()
    digest = as_digest(item.digest)
    if digest is None:
        return (_NOT_AN_ENTRY,)
    if item.kind.form is Form.ENTRY:
        return store.damage(item.kind, digest)
    try:
        return () if file_digest(item.path) == digest else (OTHER_BYTES,)
    except OSError as error:
        return (error.strerror or str(error),)


def _request(path: Path) -> Item:
    return Item(kind=REQUESTS, digest=path.name, path=path, size_bytes=0, used_s=0.0, about="")
