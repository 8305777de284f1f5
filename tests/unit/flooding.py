"""A process whose guest floods its console; its arguments: MEGABYTES LIMIT_MIB KIND….

It says in JSON what that took: seconds until somebody who waits is told, and until that is in
words; MiB of memory; and the words.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.process import Deadline, spawn
from pytest_kernelvm.vm.machine.recording import clocked_lines, following
from tests.unit.test_recording import Line

STAMP = b"[    1.234567] "
SPLAT = (
    b"[    1.0] ------------[ cut here ]------------\r\n"
    b"[    1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:7 x+0x0/0x4\r\n"
    b"[    1.0] Call trace:\r\n[    1.0]  x+0x0/0x4\r\n"
    b"[    1.0] ---[ end trace 0000000000000000 ]---\r\n"
)
# What is said again and again.
FLOODS = {
    "lines": STAMP + b"flood: 0123456789abcdef 0123456789abcdef\r\n",
    "short lines": b"\n",
    "no end of a line": b"x",
    "NUL": b"\0",
    "escape sequences": b"\x1b[31m",
    "carriage returns": b"progress 1 %\r",
    "no UTF-8": b"\xff\xfe\x80",
    "characters of four bytes": "🐧\n".encode(),
    "almost a splat": STAMP + b"INFO: a task that is not blocked, BUG or no BUG\r\n",
    "almost a splat in one line": b"INFO: BUG WARNING: ",
    "beginnings of frames": b"\x01",
    "splats": SPLAT,
    "splats that never end": SPLAT[: SPLAT.find(b"[    1.0] ---[ end")],
    "a panic and no end": b"[    1.0] Kernel panic - not syncing: x\r\n" + STAMP + b"more\r\n",
}
FEED = "import os, sys; d = bytes.fromhex(sys.argv[1]) * (65536 // (len(sys.argv[1]) // 2) + 1)\n"
FEED += "n = int(sys.argv[2])\nwhile n > 0: n -= os.write(int(sys.argv[3]), d)\n"
# As QEMU would, it goes on to be there.
FEED += "import time; time.sleep(600)"


def memory_mib() -> tuple[float, float]:
    """Return what this process has, and the most that it had since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, most = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def flood(kind: str, megabytes: int, limit_mib: int) -> dict[str, object]:
    """Have a console flooded, with a limit, and return what that took."""
    directory = Path(tempfile.mkdtemp())
    line = Line(directory, shared="frame" in kind, limit_bytes=limit_mib << 20)
    # proc(5): a 5 resets the peak.
    Path("/proc/self/clear_refs").write_text("5")
    before, _ = memory_mib()
    watch, streams = line.collector.watch, line.streams
    watch.refusing = False
    far = line.far.console.outgoing
    size = str(megabytes * 1_000_000)
    argv = [sys.executable, "-c", FEED, FLOODS[kind].hex(), size, str(far)]
    began = time.monotonic()
    shown = 0

    def show(text: str) -> None:
        nonlocal shown
        shown += len(text)

    with (
        following(line.console, show),
        spawn(argv, output=directory / "out", pass_fds=[far]),
    ):
        line.far.close()
        trouble = streams.wait_for(watch.look, Deadline(300))
        told_s = time.monotonic() - began
        words = ""
        try:
            line.console.expect("what is never there", timeout_s=20)
        except KernelvmError as error:
            words = str(error)
        tail = line.console.tail()
        expected_s = time.monotonic() - began
    closing = time.monotonic()
    with (directory / "console.txt").open("w") as file:
        file.writelines(clocked_lines(line.console, 0.0))
    written_s = time.monotonic() - closing
    _, most = memory_mib()
    line.end()
    return {
        "trouble": trouble.name if trouble else None,
        "told_s": round(told_s, 2),
        "words_s": round(expected_s - told_s, 2),
        "written_s": round(written_s, 2),
        "more_mib": round(most - before, 1),
        "kept": len(streams.console_text),
        "log": (directory / "console.log").stat().st_size,
        "shown": shown,
        "tail": len(tail),
        "words": words,
    }


if __name__ == "__main__":
    size, limit = int(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({kind: flood(kind, size, limit) for kind in sys.argv[3:]}))
