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

# What a serial line's terminal is taken for.
COLUMNS, ROWS = 100, 30
# How long the thread that shows a console may oversleep its end.
PATIENCE_S = 0.2
# What comes within this is shown at once; where much comes, its showing is not to slow it down.
TOGETHER_S = 0.01
# Of what is not shown yet when nobody looks on any longer, so much is.
LAST_BYTES = 1 << 16
# A longer line is broken.
LINE_BYTES = 1 << 14
# Of a console with much more than this, people read its beginning and the last of it.
CLOCKED_BYTES = 1 << 19


def pieces(console: Console, left_out: tuple[int, int] = (0, 0)) -> Iterator[tuple[float, bytes]]:
    """Give what came on a console, piece by piece, with its times on the monotonic clock.

    left_out: offsets between which it is not given; that is said in a line of its own.
    """
    size, times = console.size_bytes, console.times
    begin, stop = left_out
    is_said = False
    ends = (*(at for _, at in times[1:]), size)
    for (when, at), end in zip(times, ends, strict=False):
        if end <= begin or at >= stop:
            if end > at:
                yield when, console.part(at, end)
            continue
        if at < begin:
            yield when, console.part(at, begin)
        if not is_said:
            is_said = True
            yield when, f"\n… {stop - begin} bytes are in {console.log.name} …\n".encode()
        if end > stop:
            yield when, console.part(stop, end)


def two_clocks(console: Console, since: float) -> str:
    """Return a console's text as the lines of `clocked_lines`."""
    return "".join(clocked_lines(console, since))


def clocked_lines(console: Console, since: float) -> Iterator[str]:
    """Give a console's lines, each with the host's time before the guest's own, fit to be shown.

    since: what the host's seconds are counted from, on the monotonic clock; what a restored guest
    said before is below 0.
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
    have the terminal.
    title: what it shows. The format: docs.asciinema.org/manual/asciicast/v2.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    told = list(pieces(console))
    began = told[0][0] if told else time.monotonic()
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
        for when, piece in told:
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

    since: how many of its bytes are not shown. Where the guest says more than can be shown, the
    end of it is when the context ends.
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
