"""Which processes use what is in a store: an empty file for each, in a directory for each thing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pytest_kernelvm.store.kinds import USES, Kind
from pytest_kernelvm.store.owners import may_live, this_process


class Uses:
    """The uses of what is in the store at a root, as this process and others have noted them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._noted: set[str] = set()

    def directory(self, kind: Kind, name: str) -> Path:
        """Return where uses of something are noted."""
        return self._root / USES.name / f"{kind}-{name}"

    def add(self, kind: Kind, name: str, path: Path) -> None:
        """Note that this process uses something, and clear away what dead ones have noted.

        path: where it is. Where nothing can be written, nothing can be removed either.
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
        """Have the next use of something noted again."""
        self._noted.discard(self.directory(kind, name).name)

    def by_others(self, kind: Kind, name: str) -> bool:
        """Whether a process that lives, other than this one, uses something."""
        return used_by_others(self.directory(kind, name))


def used_by_others(users: Path) -> bool:
    """Whether a process that lives, other than this one, has noted a use in a directory."""
    with contextlib.suppress(OSError):
        return any(may_live(user) for user in users.iterdir() if user.name != this_process())
    return False
