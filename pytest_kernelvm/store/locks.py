"""Locks of a store: one file for each name. Who waits for a lock sees which process has it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_kernelvm.progress import Progress
from pytest_kernelvm.store.kinds import LOCKS
from pytest_kernelvm.store.owners import holder
from pytest_kernelvm.store.writing import not_writable

POLL_S = 0.1


@contextlib.contextmanager
def lock(root: Path, name: str, label: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of a name; while another process has it, say who and wait.

    Raises BadInput if the store is not writable.

    Args:
        root: The store's directory.
        name: Of the lock: `KIND-DIGEST`, or of other work.
        label: What is made under it, in words, for those who wait.
        progress: Where waiting is shown.
    """
    path = _path(root, name)
    with _opened(root, path) as file:
        _wait_for(file.fileno(), path, label, progress)
        about = {"pid": os.getpid(), "host": socket.gethostname(), "label": label}
        # Processes that wait show this. A full disk is reported by what is made under the lock.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(json.dumps(about).encode())
        yield


@contextlib.contextmanager
def lock_if_free(root: Path, name: str) -> Iterator[bool]:
    """Hold the lock of a name if nobody has it.

    Raises BadInput if the store is not writable.

    Args:
        root: The store's directory.
        name: Of the lock.

    Yields:
        Whether it is held.
    """
    with _opened(root, _path(root, name)) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _path(root: Path, name: str) -> Path:
    return root / LOCKS.name / f"{name}.lock"


def _opened(root: Path, path: Path) -> io.FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise not_writable(root, error) from None


def _wait_for(descriptor: int, path: Path, label: str, progress: Progress) -> None:
    started = time.monotonic()
    announced = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited_s = time.monotonic() - started
        if not announced:
            progress.say(f"waiting for {label}, {holder(path)}")
            announced = True
        progress.update(f"waiting for {label}: {waited_s:.0f} s")
        time.sleep(POLL_S)
