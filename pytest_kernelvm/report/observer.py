"""What a run shows and records of each guest: its console, and what it is waited for."""

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

# Shorter waits are not reported.
PATIENCE_S = 1.0
# Time between two looks of the thread that reports waits.
LOOK_S = 0.5


class Observer:
    """Follows the guests of a run.

    Attributes:
        recorded: The files of the recordings so far.
    """

    def __init__(
        self,
        *,
        live: Callable[[str], object] | None = None,
        casts: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Begin without guests.

        Args:
            live: Shows the text of consoles as it comes, with the guest's label before each line;
                None to show nothing.
            casts: The directory of asciinema recordings; None to record nothing.
            progress: Shows what guests are waited for; None to show nothing.
        """
        self._live = live
        self._casts = casts
        self._progress = progress
        self._watched: list[Vm] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.recorded: list[Path] = []

    def see(self, vm: Vm, test: str, stack: contextlib.ExitStack) -> None:
        """Follow a guest that was just launched for a test.

        Args:
            vm: The guest.
            test: The test's id, for the name of the recording.
            stack: Closed when the test and its guests have ended.
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
        """End the thread that reports waits."""
        self._ended.set()
        if self._thread:
            self._thread.join()


def waited_for(vm: Vm) -> str:
    """Return what a guest is waited for, and for how long.

    Args:
        vm: The guest.

    Returns:
        A line; empty while nothing is waited for, and before PATIENCE_S have passed.
    """
    now = time.monotonic()
    pending = vm.control.journal.pending
    if pending:
        waited_s, what = now - pending.at_s, pending.what
    elif not vm.ready_s and not vm.control.ended:
        waited_s, what = now - vm.control.started, "its agent to answer for the first time"
    else:
        return ""
    return f"{vm.label}: waiting for {what}, {waited_s:.0f} s" if waited_s >= PATIENCE_S else ""


class LinePrefixer:
    """Puts a label before each line of a text that arrives in pieces."""

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
