"""Messages of long work: one line at a time, to a listener."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from pytest_kernelvm.printable import printable, printable_line


class Progress(Protocol):
    """A listener for the messages of long work."""

    def say(self, text: str) -> None:
        """Show one lasting line: a stage begins, has ended, or is waited for.

        Args:
            text: One line without a newline.
        """

    def update(self, text: str) -> None:
        """Show how far the current stage is; may be dropped or overwritten.

        Args:
            text: One line without a newline.
        """


class Silent:
    """A listener that shows nothing."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def update(self, text: str) -> None:
        """Drop the update."""


class StreamProgress:
    """Progress on a text stream: overwritten in place on a terminal, every ten seconds elsewhere.

    Args:
        stream: Where to write; None for standard error.
        in_place: Whether updates overwrite a line; None for whether the stream is a terminal.

    Attributes:
        shown: How many characters of the current line are ours.
    """

    INTERVAL_S = 10.0

    def __init__(self, stream: TextIO | None = None, *, in_place: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty() if in_place is None else in_place
        self.shown = 0
        self._last_update = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether an update would be shown now."""
        return time.monotonic() - self._last_update >= (0.1 if self._terminal else self.INTERVAL_S)

    def say(self, text: str) -> None:
        """Write one lasting line.

        Args:
            text: One line without a newline.
        """
        self.clear()
        self._stream.write(f"kernelvm: {printable(text)}\n")
        self._stream.flush()
        self._last_update = time.monotonic()

    def update(self, text: str) -> None:
        """Overwrite the current line, or write one line every ten seconds if not a terminal.

        Args:
            text: One line without a newline.
        """
        if not self.due:
            return
        if self._terminal:
            self.clear()
            line = f"kernelvm: {printable_line(text)}"[:100]
            self._stream.write(line)
            self.shown = len(line)
        else:
            self._stream.write(f"kernelvm:   {printable_line(text)}\n")
        self._last_update = time.monotonic()
        self._stream.flush()

    def clear(self) -> None:
        """Take back what `update` wrote on the current line."""
        if self.shown:
            self._stream.write("\r" + " " * self.shown + "\r")
            self._stream.flush()
            self.shown = 0
