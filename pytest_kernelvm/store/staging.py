"""The directory `tmp` of a store: what is being made or removed, and what dead processes left."""

from __future__ import annotations

import time
from pathlib import Path

from pytest_kernelvm.store.kinds import TEMPORARY
from pytest_kernelvm.store.locks import lock_if_free
from pytest_kernelvm.store.owners import ABANDONED_S, locked_if_free
from pytest_kernelvm.store.writing import remove_tree

# What a directory is called that becomes the bundle of a failure; nobody holds a lock of it.
UNFINISHED_BUNDLE = "failure-"
_REMOVED = "removed-"


def put_aside(root: Path, path: Path, lock_name: str) -> Path | None:
    """Move something that is to be removed into `tmp`, in one step.

    Args:
        root: The store's directory.
        path: What is moved.
        lock_name: Of the lock that the caller holds.

    Returns:
        Where it is now; None if it was not there.
    """
    aside = root / TEMPORARY.name / f"{_REMOVED}{lock_name}"
    remove_tree(aside)
    aside.parent.mkdir(exist_ok=True)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return None
    return aside


def clear_if_abandoned(root: Path, path: Path) -> None:
    """Remove a directory of `tmp` if its owner, who would hold its lock, is gone.

    Args:
        root: The store's directory.
        path: The directory.
    """
    old = time.time() - path.lstat().st_mtime > ABANDONED_S
    if path.name.startswith(_REMOVED):
        with lock_if_free(root, path.name.removeprefix(_REMOVED)) as ours:
            if ours:
                remove_tree(path)
    elif path.name.startswith(UNFINISHED_BUNDLE):
        if old:
            remove_tree(path)
    else:
        with locked_if_free(path) as ours_or_unknown:
            if ours_or_unknown or (ours_or_unknown is None and old):
                remove_tree(path)
