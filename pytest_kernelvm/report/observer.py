"""What a run wants to see and keep of each guest: its console live or as a cast, what it is at."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pytest_kernelvm.progress import Progress
from pytest_kernelvm.vm.machine.recording import following, write_cast
from pytest_kernelvm.vm.machine.vm import Vm

# Who waits for less is not told what for.
PATIENCE_S = 1.0
# How often the thread that tells it looks.
LOOK_S = 0.5


class Observer:
    """Sees the guests of a run.

    live: shows their consoles' text as it comes; None for none. casts: directory of recordings,
    None for none. progress: told what is being waited for, None for silence.
    """

    def __init__(
        self,
        *,
        live: Callable[[str], object] | None = None,
        casts: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._live = live
        self._casts = casts
        self._progress = progress
        self._watched: list[Vm] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.recorded: list[Path] = []

    def see(self, vm: Vm, test: str, stack: contextlib.ExitStack) -> None:
        """See a guest that was just launched for a test.

        stack: closed when the test and its guests are over.
        """
        if self._casts:
            stack.callback(self._record, vm, test)
        if self._live:
            show, prefixed = self._live, LinePrefixer(vm.label)
            since = vm.console.size_bytes
            stack.enter_context(
                following(vm.console, lambda text: show(prefixed(text)), since=since)
            )
        if self._progress:
            self._watched.append(vm)
            stack.callback(self._watched.remove, vm)
            if not self._thread:
                self._thread = threading.Thread(
                    target=self._report_waiting, name="kernelvm-observer", daemon=True
                )
                self._thread.start()

    def _record(self, vm: Vm, test: str) -> None:
        assert self._casts
        self._casts.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "-", test.rpartition("/")[2]).strip("-")
        file, number = self._casts / f"{name}.cast", 1
        while file in self.recorded:
            number += 1
            file = self._casts / f"{name}-{number}.cast"
        write_cast(vm.console, file, f"{test} on {vm.label}")
        self.recorded.append(file)

    def _report_waiting(self) -> None:
        assert self._progress
        while not self._ended.wait(LOOK_S):
            for vm in list(self._watched):
                if line := waited_for(vm):
                    self._progress.update(line)

    def close(self) -> None:
        """End the thread that tells what is waited for."""
        self._ended.set()
        if self._thread:
            self._thread.join()


def waited_for(vm: Vm) -> str:
    """Return what a guest is waited for and how long already; empty if that is not worth a word."""
    now = time.monotonic()
    pending = vm.journal.pending
    if pending:
        waited_s, what = now - pending.at_s, pending.what
    elif not vm.ready_s and not vm.ended:
        waited_s, what = now - vm.started, "its agent to answer for the first time"
    else:
        return ""
    return f"{vm.label}: waiting for {what}, {waited_s:.0f} s" if waited_s >= PATIENCE_S else ""


class LinePrefixer:
    """Puts a label before each line of a text that comes in pieces."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._within = False

    def __call__(self, text: str) -> str:
        """Return the next piece with the label before each line that begins in it."""
        lines = text.splitlines(keepends=True)
        if not lines:
            return ""
        first = lines[0] if self._within else f"{self._label} | {lines[0]}"
        self._within = not text.endswith("\n")
        return first + "".join(f"{self._label} | {line}" for line in lines[1:])
