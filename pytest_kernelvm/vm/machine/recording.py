"""A console over time: shown as it comes, as text with both clocks, or as an asciinema cast."""

from __future__ import annotations

import codecs
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_kernelvm.printable import printable
from pytest_kernelvm.vm.machine.console import Console

# A serial line has no size; terminals that show a cast take this one.
COLUMNS, ROWS = 100, 30
# The thread that shows a console ends at most so much later than the console.
PATIENCE_S = 0.2
# Text that comes within this is shown together, so that showing it does not slow the guest down.
TOGETHER_S = 0.01
# When the showing ends, at most so much of the text that was not shown yet is shown.
LAST_BYTES = 1 << 16
# A longer line is broken.
LINE_BYTES = 1 << 14
# Of a much longer console only so much of its beginning and of its end is written.
CLOCKED_BYTES = 1 << 19


def pieces(console: Console, left_out: tuple[int, int] = (0, 0)) -> Iterator[tuple[float, bytes]]:
    """Give what came on a console, piece by piece.

    Args:
        console: The console.
        left_out: Offsets between which it is not given; that is said in a line of its own.

    Yields:
        When a piece came, on the monotonic clock, and the piece.
    """
    size, times = console.size_bytes, console.times
    begin, stop = left_out
    is_reported = False
    ends = (*(at for _, at in times[1:]), size)
    for (when, at), end in zip(times, ends, strict=False):
        if end <= begin or at >= stop:
            if end > at:
                yield when, console.part(at, end)
            continue
        if at < begin:
            yield when, console.part(at, begin)
        if not is_reported:
            is_reported = True
            yield when, f"\n… {stop - begin} bytes are in {console.log.name} …\n".encode()
        if end > stop:
            yield when, console.part(stop, end)


def two_clocks(console: Console, since: float) -> str:
    """Return a console's text as the lines of `clocked_lines`.

    Args:
        console: The console.
        since: As `clocked_lines` takes it.

    Returns:
        The lines, one behind the other.
    """
    return "".join(clocked_lines(console, since))


def clocked_lines(console: Console, since: float) -> Iterator[str]:
    """Give a console's lines, each with the host's time before the guest's own, fit to be shown.

    Args:
        console: The console.
        since: What the host's seconds are counted from, on the monotonic clock; what a restored
            guest said before is below 0.

    Yields:
        The lines, each with its LF.
    """
    size = console.size_bytes
    is_long = size > 2 * CLOCKED_BYTES
    left_out = (CLOCKED_BYTES, size - CLOCKED_BYTES) if is_long else (0, 0)
    started, line = since, bytearray()
    for when, piece in pieces(console, left_out):
        for part in piece.splitlines(keepends=True):
            started = started if line else when
            line += part
            if line.endswith(b"\n") or len(line) >= LINE_BYTES:
                yield _clocked(started - since, line)
                line = bytearray()
    if line:
        yield _clocked(started - since, line)


def _clocked(at_s: float, line: bytes | bytearray) -> str:
    return f"{at_s:10.6f}  {printable(line.rstrip())}\n"


def write_cast(console: Console, file: Path, title: str) -> None:
    """Write a console as an asciinema cast, version 2.

    It has all that the guest wrote, its escape sequences as well: to play it is to let the guest
    have the terminal. The format: docs.asciinema.org/manual/asciicast/v2.

    Args:
        console: The console.
        file: The cast.
        title: What it shows.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    recorded = list(pieces(console))
    began = recorded[0][0] if recorded else time.monotonic()
    header = {
        "version": 2,
        "width": COLUMNS,
        "height": ROWS,
        "timestamp": int(time.time() - (time.monotonic() - began)),
        "title": title,
        "env": {"TERM": "vt100"},
    }
    with file.open("w") as sink:
        sink.write(f"{json.dumps(header)}\n")
        for when, piece in recorded:
            text = decoder.decode(piece)
            if text:
                sink.write(f"{json.dumps([round(when - began, 6), 'o', text])}\n")


class _Shown:
    """Shows bytes that come in pieces: what is cut in two by that is shown whole."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._held = ""

    def __call__(self, piece: bytes) -> int:
        """Show a piece and return its length; CR waits for the LF that belongs to it."""
        text = self._held + self._decoder.decode(piece)
        whole = text.rstrip("\r")
        self._held = text[len(whole) :]
        if whole:
            self._show(printable(whole))
        return len(piece)


@contextlib.contextmanager
def following(console: Console, show: Callable[[str], object], *, since: int = 0) -> Iterator[None]:
    """Show a console's text as it comes, as long as the context lasts; fit for a terminal.

    Where the guest says more than can be shown, the end of it is shown when the context ends.

    Args:
        console: The console.
        show: Shows a text.
        since: How many of the console's bytes are not shown.

    Yields:
        Nothing.
    """
    ended = threading.Event()

    def follow() -> None:
        text, shown = _Shown(show), since
        while not ended.is_set():
            fresh = console.wait_beyond(shown, PATIENCE_S)
            if fresh is None:
                return
            shown += text(fresh)
            ended.wait(TOGETHER_S)
        left = console.size_bytes - shown
        if left > LAST_BYTES:
            show(f"\n… {left - LAST_BYTES} bytes are in {console.log} …\n")
        text(console.part(shown + max(0, left - LAST_BYTES), shown + left))

    thread = threading.Thread(target=follow, name="kernelvm-console", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
