"""How long work tells what it is doing: one line at a time, to whoever listens."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO


class Progress(Protocol):
    """Listener for what long work says."""

    def say(self, text: str) -> None:
        """Show one lasting line (a stage begins, ended, was waited for)."""

    def update(self, text: str) -> None:
        """Show how far the current stage is; may be dropped or overwritten."""


class Silent:
    """A listener that shows nothing."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def update(self, text: str) -> None:
        """Drop the update."""


class StreamProgress:
    """Progress on a text stream: overwritten in place on a terminal, every ten seconds elsewhere.

    stream: where to write, standard error by default.
    """

    INTERVAL_S = 10.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._shown = 0
        self._last_update = time.monotonic()

    def say(self, text: str) -> None:
        """Write one lasting line."""
        self._clear()
        self._stream.write(f"kernelvm: {text}\n")
        self._stream.flush()
        self._last_update = time.monotonic()

    def update(self, text: str) -> None:
        """Overwrite the current line, or write one line every ten seconds if not a terminal."""
        now = time.monotonic()
        if self._terminal:
            if now - self._last_update < 0.1:
                return
            self._clear()
            line = f"kernelvm: {text}"[:100]
            self._stream.write(line)
            self._shown = len(line)
        elif now - self._last_update < self.INTERVAL_S:
            return
        else:
            self._stream.write(f"kernelvm:   {text}\n")
        self._last_update = now
        self._stream.flush()

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * self._shown + "\r")
            self._shown = 0
