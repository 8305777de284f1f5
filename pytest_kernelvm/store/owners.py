"""Which process uses what in a store, works in a directory or holds a lock; whether it lives.

Uses are recorded in `uses`: an empty file for each process, in a directory for each thing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_kernelvm.store.kinds import USES, Kind

# For so long a process on another host is taken to live.
ELSEWHERE_S = 86400.0
# For so long a directory without a lock stays: NFS locks no directories.
ABANDONED_S = 86400.0


def this_process() -> str:
    """Return a name of this process that no other one has, on any host."""
    return f"{socket.gethostname()}-{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> str:
    """Return when a process was started (proc(5), field 22 of stat), empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def may_live(user: Path) -> bool:
    """Whether the process lives that a file of `uses` is named after.

    Args:
        user: The file; its name is that of `this_process`.

    Returns:
        Whether it lives. Of a process on another host nobody knows: for a day it is taken to live.
    """
    host, _, rest = user.name.rpartition("-")[0].rpartition("-")
    pid, started = rest, user.name.rpartition("-")[2]
    if host == socket.gethostname():
        return pid.isdecimal() and bool(started) and _started(int(pid)) == started
    return time.time() - user.stat().st_mtime < ELSEWHERE_S


@contextlib.contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Make a directory and hold its lock, which ends with this process however that ends.

    Args:
        directory: Made if it does not exist.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    while True:
        directory.mkdir(exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Over NFS only files can be locked (flock(2)).
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have seen it without an owner, and removed it.
            if _is_same(directory, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_same(directory: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(directory.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked_if_free(directory: Path) -> Iterator[bool | None]:
    """Hold the lock of a directory if nobody has it.

    Args:
        directory: It must exist.

    Yields:
        Whether it is held; None if unknown.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held: bool | None = True
        except BlockingIOError:
            held = False
        except OSError:
            held = None
        yield held
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Return who holds a lock, in words, by what its file says.

    Args:
        path: The file of the lock.
    """
    try:
        said = json.loads(path.read_text())
        return f"being made by pid {said['pid']} on {said['host']}"
    except (OSError, ValueError, KeyError):
        return "being made by another process"


class Uses:
    """The uses of what is in a store, as this process and others have recorded them.

    Args:
        root: The store's directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._noted: set[str] = set()

    def directory(self, kind: Kind, name: str) -> Path:
        """Return where uses of something are recorded.

        Args:
            kind: What it is.
            name: Which one: a digest or a file's name.
        """
        return self._root / USES.name / f"{kind}-{name}"

    def add(self, kind: Kind, name: str, path: Path) -> None:
        """Record that this process uses something; clear away what dead processes have recorded.

        Where nothing can be written, nothing can be removed either.

        Args:
            kind: What it is.
            name: Its digest, or its directory's name.
            path: Where it is; if it is not there, nothing is recorded.
        """
        users = self.directory(kind, name)
        if users.name in self._noted or not path.exists():
            return
        self._noted.add(users.name)
        with contextlib.suppress(OSError):
            users.mkdir(parents=True, exist_ok=True)
            (users / this_process()).touch()
            os.utime(users)
            for user in users.iterdir():
                if not may_live(user):
                    user.unlink(missing_ok=True)

    def forget(self, kind: Kind, name: str) -> None:
        """Have the next use of something recorded again.

        Args:
            kind: What it is.
            name: Which one: a digest or a file's name.
        """
        self._noted.discard(self.directory(kind, name).name)

    def by_others(self, kind: Kind, name: str) -> bool:
        """Return whether a process that lives, other than this one, uses something.

        Args:
            kind: What it is.
            name: Which one: a digest or a file's name.
        """
        return used_by_others(self.directory(kind, name))


def used_by_others(users: Path) -> bool:
    """Return whether a process that lives, other than this one, has recorded a use in a directory.

    Args:
        users: The directory of its uses, as `Uses.directory` gives it.
    """
    with contextlib.suppress(OSError):
        return any(may_live(user) for user in users.iterdir() if user.name != this_process())
    return False
