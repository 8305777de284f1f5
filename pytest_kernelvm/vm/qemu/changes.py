"""How threads that wait for something of a guest are woken."""

from __future__ import annotations

import os
import threading
from types import TracebackType


class Changes:
    """A lock over what may change, and what wakes those who wait for a change.

    Entering it takes the lock.

    Attributes:
        descriptor: Becomes readable at a change that `listen` asked for: for a thread that waits in
            poll(2) for other descriptors too.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_listened_to = False

    def __enter__(self) -> None:
        self._condition.acquire()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._condition.release()

    def wait(self, timeout_s: float) -> None:
        """Wait for a change, with the lock held; meanwhile others may take it."""
        self._condition.wait(timeout_s)

    def listen(self, wanted: bool) -> None:
        """Say, with the lock held, whether the next change makes the descriptor readable."""
        self._is_listened_to = wanted

    def clear(self) -> None:
        """Make the descriptor unreadable until the next change."""
        os.eventfd_read(self.descriptor)

    def notify(self) -> None:
        """Wake whoever waits; called with the lock held."""
        self._condition.notify_all()
        if self._is_listened_to:
            self._is_listened_to = False
            os.eventfd_write(self.descriptor, 1)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
