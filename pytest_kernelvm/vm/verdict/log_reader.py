"""Reading a guest's kernel log and taint through its agent."""

from __future__ import annotations

import os
from collections.abc import Callable

from pytest_kernelvm.guest.protocol import NR_TAINT, Batch, Reply, add_log_read
from pytest_kernelvm.vm.klog.kernel_log import (
    LIMIT_BYTES,
    MARK_RECORD,
    LogCopy,
    LogGap,
    may_be_incomplete,
)
from pytest_kernelvm.vm.klog.taint import unexplained_taints
from pytest_kernelvm.vm.klog.transcript import lines_between
from pytest_kernelvm.vm.qemu.streams import Streams
from pytest_kernelvm.vm.verdict.watch import Watch

SendBatch = Callable[[Batch], Reply]

# What /proc/sys/kernel/tainted has at the most.
_TAINT_BYTES = 32


class LogReader:
    """Keeps the copy of one guest's kernel log up to date.

    What asks the agent may raise what the channel raises.

    Args:
        streams: The guest's.
        watch: Told of what is found wrong with the log itself.
        copy: Of the log so far.
        taint: The kernel's so far (Documentation/admin-guide/tainted-kernels.rst).

    Attributes:
        taint: The kernel's when it was last read.
    """

    def __init__(self, streams: Streams, watch: Watch, copy: LogCopy, taint: int = 0) -> None:
        self._streams = streams
        self._watch = watch
        self._copy = copy
        self._gaps = len(copy.gaps)
        self._is_full_reported = False
        self.taint = taint

    def take(self, result: int, raw: bytes, seen_bytes: int) -> bool:
        """Take what came of the log with the reply to a request.

        Args:
            result: Of the step that read it.
            raw: As /dev/kmsg gives it.
            seen_bytes: How long the console's text was when the request was sent.

        Returns:
            Whether there is more to be read.
        """
        if result < 0:
            self._note_trouble(result)
            return False
        if not self._copy.add(raw, stop_at_gap=True) or may_be_incomplete(len(raw)):
            return True
        self._watch.settle(seen_bytes)
        return False

    def read(self, ask: SendBatch) -> None:
        """Read all that the log has by now.

        Args:
            ask: Has the agent make a batch.
        """
        self._read(ask, mark=b"", with_taint=False)

    def look(self, ask: SendBatch) -> None:
        """Read all that the log has, its last record even if that may be added to, and the taint.

        What the taint has and no splat explains is noted as a splat of the kind `taint`.

        Args:
            ask: Has the agent make a batch.
        """
        self._read(ask, mark=MARK_RECORD, with_taint=True)

    def _read(self, ask: SendBatch, *, mark: bytes, with_taint: bool) -> None:
        anew = was_anew = False
        marks = self._copy.marks
        while True:
            seen_bytes = len(self._streams.console_text)
            batch = Batch()
            add_log_read(batch, mark, anew=anew)
            if with_taint:
                batch.call(NR_TAINT, batch.space(_TAINT_BYTES), _TAINT_BYTES, out=(0, None))
            reply = ask(batch)
            if reply.results[0] < 0:
                self._note_trouble(reply.results[0])
                break
            raw = reply.outputs[0]
            # An answer may have been lost on its way; the kernel may still have those records.
            anew = not self._copy.add(raw, stop_at_gap=not was_anew)
            was_anew = was_anew or anew
            # A guest that logs all the time is read up to the mark, not until it is silent.
            is_read = (
                not may_be_incomplete(len(raw)) or self._copy.marks > marks or self._copy.is_full
            )
            if not anew and is_read:
                self._watch.settle(seen_bytes)
                break
            mark = b""
        self._find_gaps()
        if with_taint and reply.outputs[1]:
            self._find_taint(int(reply.outputs[1]))

    def _note_trouble(self, result: int) -> None:
        """Note that the log cannot be read; where it could be before, that is found wrong."""
        words = os.strerror(-result)
        if self._copy.raw and not self._copy.trouble:
            self._watch.find("log gap", f"the kernel's log cannot be read any more: {words}")
        self._copy.trouble = words

    def _find_gaps(self) -> None:
        """Note what the log lacks, unless the console shows it."""
        for gap in self._copy.gaps[self._gaps :]:
            if not self._is_on_console(gap):
                title = bytes(self._copy.text[gap.start : gap.end]).decode().strip()
                self._watch.find("log gap", title, (gap.start, gap.end))
        self._gaps = len(self._copy.gaps)
        if self._copy.is_full and not self._is_full_reported:
            self._is_full_reported = True
            limit = f"{LIMIT_BYTES >> 20} MiB"
            self._watch.find("log gap", f"the kernel's log is longer than {limit}")

    def _is_on_console(self, gap: LogGap) -> bool:
        text = self._streams.console_text.decode("latin-1")
        return lines_between(text, gap.after_s, gap.before_s) >= gap.lost

    def _find_taint(self, taint: int) -> None:
        before, self.taint = self.taint, taint
        if not taint & ~before:
            return
        kinds = (splat.kind for splat in self._watch.log_splats)
        log = self._copy.text.decode(errors="replace")
        for flag in unexplained_taints(before, taint, kinds, log):
            # The words that explain it may be among the lost records, which are reported instead.
            if not (flag.message and self._copy.gaps):
                title = f"tainted, and no log line explains it: {flag.letter} ({flag.meaning})"
                self._watch.find("taint", title)
