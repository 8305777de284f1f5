"""Which files of a module tree exist."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path


class Presence:
    """Whether files exist and are readable; each is looked up once."""

    def __init__(self, directory: Path) -> None:
        """Look up nothing yet.

        Args:
            directory: The tree; it need not exist.
        """
        self._directory = directory
        self._known: dict[str, bool] = {}

    def has_file(self, file: str) -> bool:
        """Return whether a file exists.

        Args:
            file: Its path below the tree.

        Returns:
            False also for one that cannot be read.
        """
        there = self._known.get(file)
        return self.look_up([file])[file] if there is None else there

    def look_up(self, files: Iterable[str]) -> Mapping[str, bool]:
        """Look up some files.

        Args:
            files: Paths below the tree.

        Returns:
            All files that were looked up so far, and whether they exist.
        """
        descriptor, access = self._descriptor, os.access
        if descriptor < 0:
            self._known.update(dict.fromkeys(files, False))
        else:
            # For thousands of files, paths relative to the tree take half the time.
            self._known.update({file: access(file, os.R_OK, dir_fd=descriptor) for file in files})
        return self._known

    @cached_property
    def _descriptor(self) -> int:
        try:
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return -1
        weakref.finalize(self, os.close, descriptor)
        return descriptor
