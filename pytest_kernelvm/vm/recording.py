"""A console over time: shown as it comes, as text with both clocks, or as an asciinema cast."""

from __future__ import annotations

import codecs
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_kernelvm.vm.console import Console

# What a serial line's terminal is taken for.
COLUMNS, ROWS = 100, 30
# How long the thread that shows a console may oversleep its end.
PATIENCE_S = 0.2


def pieces(console: Console) -> Iterator[tuple[float, bytes]]:
    """Give what came on a console, piece by piece, with its times on the monotonic clock."""
    raw, times = console.raw, console.times
    ends = (*(at for _, at in times[1:]), len(raw))
    for (when, at), end in zip(times, ends, strict=False):
        if end > at:
            yield when, raw[at:end]


def two_clocks(console: Console, since: float) -> str:
    """Return a console's text, each line with the host's time before the guest's own.

    since: what the host's seconds are counted from, on the monotonic clock; what a restored guest
    said before is below 0.
    """
    lines: list[str] = []
    started, line = since, b""
    for when, piece in pieces(console):
        for part in piece.splitlines(keepends=True):
            started = started if line else when
            line += part
            if line.endswith(b"\n"):
                lines.append(_clocked(started - since, line))
                line = b""
    if line:
        lines.append(_clocked(started - since, line))
    return "".join(lines)


def _clocked(at_s: float, line: bytes) -> str:
    return f"{at_s:10.6f}  {line.decode(errors='replace').rstrip()}\n"


def write_cast(console: Console, file: Path, title: str) -> None:
    """Write a console as an asciinema cast, version 2.

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


@contextlib.contextmanager
def following(console: Console, show: Callable[[str], object], *, since: int = 0) -> Iterator[None]:
    """Show a console's text as it comes, as long as the context lasts.

    since: how many of its bytes are not shown.
    """
    ended = threading.Event()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def follow() -> None:
        shown = since
        while True:
            last = ended.is_set()
            fresh = console.wait_beyond(shown, 0.0 if last else PATIENCE_S)
            if fresh:
                show(decoder.decode(fresh).replace("\r", ""))
                shown += len(fresh)
            if last or fresh is None:
                return

    thread = threading.Thread(target=follow, name="kernelvm-console", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
