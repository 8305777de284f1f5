"""A point in time up to which something waits."""

from __future__ import annotations

import time


class Deadline:
    """A point in time on the monotonic clock.

    Attributes:
        timeout_s: How many seconds after its making it lies.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._at = time.monotonic() + timeout_s

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the point lies behind us."""
        return time.monotonic() >= self._at
