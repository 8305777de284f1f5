"""Progress on pytest's terminal, although pytest captures output; in xdist's workers as well."""

from __future__ import annotations

import contextlib
import sys

import pytest

from pytest_kernelvm.progress import StreamProgress


class TerminalProgress:
    """Progress on standard error, in lines of its own between those of pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._reporter = config.pluginmanager.getplugin("terminalreporter")
        # Several workers would overwrite each other's lines.
        worker = hasattr(config, "workerinput")
        with self._uncaptured():
            self._stream = StreamProgress(sys.stderr, in_place=None if not worker else False)

    def _uncaptured(self) -> contextlib.AbstractContextManager[None]:
        if self._capture is None:
            return contextlib.nullcontext()
        disabled: contextlib.AbstractContextManager[None] = (
            self._capture.global_and_fixture_disabled()
        )
        return disabled

    def _own_line(self) -> None:
        """End the line that pytest began, unless progress is shown on it already."""
        if self._reporter is not None and not self._stream.shown:
            self._reporter.ensure_newline()

    def say(self, text: str) -> None:
        """Show one lasting line.

        Args:
            text: One line without a newline.
        """
        with self._uncaptured():
            self._own_line()
            self._stream.say(text)

    def update(self, text: str) -> None:
        """Show how far the current stage is.

        Args:
            text: One line without a newline.
        """
        if not self._stream.due:
            return
        with self._uncaptured():
            self._own_line()
            self._stream.update(text)

    def clear(self) -> None:
        """Erase the progress, so that pytest can write on the line."""
        if self._stream.shown:
            with self._uncaptured():
                self._stream.clear()
