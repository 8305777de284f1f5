"""What ends a wait: recorded text through real sockets, beside a real process."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.guest.protocol import Batch, Reply
from pytest_kernelvm.process import Deadline, Spawned, spawn
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.klog.splat_reader import MOST_SPLATS
from pytest_kernelvm.vm.qemu.serial_line import SerialEndpoint
from pytest_kernelvm.vm.qemu.streams import Streams, connected
from pytest_kernelvm.vm.verdict.allowance import SourceOffsets, TextSource, allowance
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline
from pytest_kernelvm.vm.verdict.log_reader import LogReader
from pytest_kernelvm.vm.verdict.watch import Trouble, Watch
from tests.unit.test_transcript import console

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@dataclass(frozen=True, kw_only=True)
class Guest:
    """The far end of a guest's console, and a process in QEMU's place."""

    console: SerialEndpoint
    streams: Streams
    process: Spawned
    watch: Watch
    log: LogCopy

    def says(self, text: str | bytes) -> None:
        self.console.write(text.encode() if isinstance(text, str) else text)
        self.streams.drain()

    def floods(self, text: str) -> None:
        """Say more than a pipe takes at once, and wait until all of it is there."""
        whole = len(self.streams.console_text) + len(text)
        self.says(text)
        so_far = self.streams.console_text
        assert self.streams.wait_for(lambda: len(so_far) >= whole or None, Deadline(60.0))

    def trouble(self, timeout_s: float = 20.0) -> Trouble | None:
        return self.streams.wait_for(self.watch.look, Deadline(timeout_s))


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    splitter, log = FrameSplitter("big"), tmp_path / "console.log"
    with (
        connected(splitter=splitter, log=log) as (streams, far),
        spawn(SLEEPER, output=tmp_path / "output") as process,
    ):
        streams.start()
        kernel_log = LogCopy()
        yield Guest(
            console=far.console,
            streams=streams,
            process=process,
            watch=Watch(streams, process.pid, 0, kernel_log),
            log=kernel_log,
        )


def test_nothing_is_wrong_with_a_boot(guest: Guest) -> None:
    guest.says(console("malta_ready"))
    assert guest.trouble(0) is None
    assert guest.watch.splats == ()


@pytest.mark.parametrize("refusing", [True, False])
def test_a_panic_ends_every_wait(guest: Guest, refusing: bool) -> None:
    guest.watch.refusing = refusing
    guest.says(console("aarch64_sysrq_crash"))
    assert guest.trouble() is Trouble.PANIC


def test_a_halt(guest: Guest) -> None:
    guest.says(console("malta_halted"))
    assert guest.trouble() is Trouble.HALTED


def test_the_consoles_end(guest: Guest) -> None:
    guest.console.close()
    assert guest.trouble() is Trouble.ENDED


def test_a_stopped_process(guest: Guest) -> None:
    os.kill(guest.process.pid, signal.SIGSTOP)
    assert guest.trouble() is Trouble.STOPPED


def test_a_process_that_went_on_is_not_stopped(guest: Guest) -> None:
    os.kill(guest.process.pid, signal.SIGSTOP)
    assert guest.trouble() is Trouble.STOPPED
    os.kill(guest.process.pid, signal.SIGCONT)
    guest.watch.begin(GuestDeadline(1.0, guest.process.pid))
    assert guest.trouble(0.6) is None


@pytest.mark.parametrize("name", ["lkdtm_aarch64_warning", "splat_rss", "splat_rcu_stall"])
@pytest.mark.parametrize("size", [1, 7, 100, 100000])
def test_a_splat_however_it_comes(guest: Guest, name: str, size: int) -> None:
    guest.watch.refusing = True
    raw = console(name).replace("\n", "\r\n").encode()
    for at in range(0, len(raw), size):
        guest.console.write(raw[at : at + size])
        if at % 50 == 0:
            guest.streams.now(guest.watch.look)
    guest.streams.drain()
    assert guest.trouble() is Trouble.SPLAT
    [splat] = guest.watch.refused
    assert splat.text in console(name)
    assert raw[splat.start : splat.end].decode().replace("\r", "").rstrip("\n") == splat.text


def test_text_that_is_no_ascii(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.says("[    1.0] größe: 5 µm\n".encode() + b"[    1.1] \xff\xfe\n")
    guest.says(console("splat_atomic"))
    assert guest.trouble() is Trouble.SPLAT
    [splat] = guest.watch.refused
    assert splat.text.splitlines()[0].endswith("scheduling while atomic: insmod/61/0x00000002")


def test_a_splat_is_not_refused_unless_somebody_refuses(guest: Guest) -> None:
    guest.says(console("aarch64_warning"))
    assert guest.trouble(0) is None
    assert len(guest.watch.splats) == 1


def test_an_allowed_splat_is_fine(guest: Guest) -> None:
    guest.watch.refusing = True
    allowed = allowance("nf_conntrack_cleanup_net_list", "known")
    guest.watch.allowances.append(allowed)
    guest.says(console("aarch64_warning"))
    assert guest.trouble(0) is None
    assert [splat.kind for splat in allowed.splats] == ["WARNING"]
    guest.says(console("splat_atomic"))
    assert guest.trouble() is Trouble.SPLAT


ALLOWED_WARN = (
    "[    1.000000] ------------[ cut here ]------------\n"
    "[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:7 x+0x0/0x4\n"
    "[    1.000000] ---[ end trace 0000000000000000 ]---\n"
)


def test_more_splats_than_are_looked_at_are_no_clean_test(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.watch.allowances.append(allowance(r"kernel/x\.c:7", "known"))
    guest.floods(ALLOWED_WARN * MOST_SPLATS)
    assert guest.trouble(0) is None
    guest.says(ALLOWED_WARN)
    assert guest.trouble() is Trouble.SPLAT
    [splat] = guest.watch.refused
    assert (splat.kind, splat.title) == (
        "too many splats",
        f"more than {MOST_SPLATS} splats: the later ones are not looked at",
    )
    guest.watch.mark_reported(TextSource.CONSOLE, guest.watch.refused)
    assert not guest.watch.refused
    guest.says(ALLOWED_WARN.replace("x.c:7", "other.c:8"))
    assert [each.kind for each in guest.watch.refused] == ["too many splats"]


def test_a_panic_is_found_behind_however_many_splats(guest: Guest) -> None:
    guest.floods(ALLOWED_WARN * (MOST_SPLATS + 2))
    assert guest.trouble(0) is None
    guest.says(ALLOWED_WARN + "[    2.000000] Kernel panic - not syncing: x\n")
    assert guest.trouble() is Trouble.PANIC


def test_what_a_program_repeats_is_settled_by_the_log_however_often(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.floods(ALLOWED_WARN * (MOST_SPLATS + 2))
    guest.watch.settle(len(guest.streams.console_text))
    assert not guest.watch.refused
    guest.says(ALLOWED_WARN)
    assert [each.kind for each in guest.watch.refused] == ["too many splats"]


def test_an_allowance_is_for_a_stretch_of_the_console(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.says(console("splat_atomic"))
    begin = len(guest.streams.console_text)
    allowed = allowance("scheduling while atomic", "provoked")
    allowed.places = SourceOffsets(start={TextSource.CONSOLE: begin})
    guest.watch.allowances.append(allowed)
    guest.says(console("splat_atomic"))
    end = len(guest.streams.console_text)
    allowed.places.end[TextSource.CONSOLE] = end
    guest.says(console("splat_atomic"))
    starts = [splat.start for splat in guest.watch.refused]
    assert len(starts) == 2
    assert starts[0] < begin < end < starts[1]
    assert len(allowed.splats) == 1


def test_a_reported_splat_is_not_reported_again(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.says(console("aarch64_warning"))
    guest.watch.mark_reported(TextSource.CONSOLE, guest.watch.splats)
    assert guest.trouble(0) is None
    guest.says(console("splat_atomic"))
    assert guest.trouble() is Trouble.SPLAT


def test_repeated_lockup_reports_are_one_event(guest: Guest) -> None:
    guest.watch.refusing = True
    text = console("lkdtm_aarch64_soft_lockup")
    guest.says(text)
    assert guest.trouble() is Trouble.SPLAT
    guest.watch.mark_reported(TextSource.CONSOLE, guest.watch.splats)
    for seconds in ("26s", "48s"):
        guest.says(text.replace("stuck for 3s", f"stuck for {seconds}"))
    assert guest.watch.refused == ()
    assert len(guest.watch.splats) == 3


def test_text_without_an_end_does_not_hold_up_the_verdict(guest: Guest) -> None:
    """A spinning guest never stops talking."""
    guest.watch.refusing = True
    text = console("lkdtm_aarch64_soft_lockup")
    guest.says(text)
    deadline = Deadline(20)
    while guest.trouble(0) is None:
        guest.says("[    5.483000]  another_line+0x0/0x4\n")
        assert not deadline.passed
    assert guest.watch.is_refused


def test_the_boot_of_a_snapshot_counts_when_asked_for(guest: Guest) -> None:
    guest.says(console("aarch64_warning"))
    begin = len(guest.streams.console_text)
    later = Watch(guest.streams, guest.process.pid, begin, LogCopy())
    guest.says(console("splat_rss"))
    assert [splat.kind for splat in later.splats] == ["BUG"]
    later.look_from(0, 0)
    assert [splat.kind for splat in later.splats] == ["WARNING", "BUG"]


# The kernel's log beside the console

LINE = "BUG: scheduling while atomic: mine/61/0x00000002"
SHOWN = f"[    3.000000] {LINE}\n[    9.000000] later\n"
LOGGED = f"3,{{}},3000000,-;{LINE}\n6,{{}},9000000,-;later\n"


def log_of(first: int) -> bytes:
    return LOGGED.format(first, first + 1).encode()


def test_the_log_tells_what_the_console_does_not(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.log.add(log_of(0))
    assert guest.trouble() is Trouble.SPLAT
    [splat] = guest.watch.refused
    assert (splat.title, splat.guest_time_s) == (LINE, 3.0)


def test_what_only_the_console_shows_is_settled_by_the_log(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.says(SHOWN)
    assert guest.trouble() is Trouble.SPLAT
    guest.watch.settle(len(guest.streams.console_text))
    assert guest.trouble(0) is None
    guest.says(SHOWN.replace("3.0", "4.0"))
    assert guest.trouble() is Trouble.SPLAT


def test_one_event_is_reported_once(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.says(SHOWN)
    guest.log.add(log_of(0))
    assert len(guest.watch.splats) == 1
    refused = guest.watch.refused
    guest.watch.mark_reported(TextSource.LOG, refused)
    assert [len(refused), len(guest.watch.refused)] == [1, 0]


def test_the_same_words_once_more_are_another_event(guest: Guest) -> None:
    guest.watch.refusing = True
    for _time in range(2):
        guest.watch.find("log gap", "1 record of the kernel's log was lost")
        [refused] = guest.watch.refused
        guest.watch.mark_reported(TextSource.LOG, [refused])
        assert not guest.watch.refused


def test_what_the_log_lost_is_told_by_the_console(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.log.add(b"6,0,0,-;Linux version 6.12\n")
    guest.says(SHOWN)
    guest.log.add(b"6,5,10000000,-;after the gap\n")
    guest.watch.settle(len(guest.streams.console_text))
    assert [splat.title for splat in guest.watch.refused] == [LINE]


def _always(reply: Reply, _batch: Batch) -> Reply:
    return reply


SHOWN_LINES = [f"[    3.{number:06}] said {number}\n" for number in range(1, 4)]


@pytest.mark.parametrize(
    ("shown", "kinds"),
    [
        ("".join(SHOWN_LINES), []),
        ("".join(SHOWN_LINES[1:]), ["log gap"]),
        (SHOWN_LINES[0], ["log gap"]),
        ("half a frame" + "".join(SHOWN_LINES), []),
        ("".join(SHOWN_LINES[1:]) + "it took [ 3.5] seconds\n", ["log gap"]),
    ],
    ids=["all", "one less", "one", "behind other text", "a program's figures"],
)
def test_lost_records_are_told_unless_the_console_shows_them(
    guest: Guest, shown: str, kinds: list[str]
) -> None:
    """Three records are lost, and the agent cannot write the marks that it is asked for."""
    guest.log.add(b"6,0,0,-;Linux version 6.12\n")
    reader = LogReader(guest.streams, guest.watch, guest.log)
    guest.says(shown)
    for raw in (b"", b"", b"6,4,4000000,-;after the gap\n"):
        reply = Reply(results=(len(raw), 2), outputs=(raw, b"0\n"))
        # What is missing is missing still when the agent reads from the beginning.
        reader.look(partial(_always, reply))
    assert [splat.kind for splat in guest.watch.refused] == kinds


def test_an_allowance_is_for_a_stretch_of_the_log(guest: Guest) -> None:
    guest.watch.refusing = True
    allowed = allowance("scheduling while atomic", "provoked")
    guest.log.add(log_of(0))
    allowed.places = SourceOffsets(start={TextSource.LOG: len(guest.log.text)})
    guest.watch.allowances.append(allowed)
    guest.log.add(log_of(2).replace(b"3000000", b"9500000"))
    allowed.places.end = {TextSource.LOG: len(guest.log.text)}
    guest.log.add(log_of(4).replace(b"3000000", b"9600000"))
    assert [splat.guest_time_s for splat in guest.watch.refused] == [3.0, 9.6]
    assert [splat.guest_time_s for splat in allowed.splats] == [9.5]


def test_what_the_kernel_does_not_say_itself_is_found_in_its_place(guest: Guest) -> None:
    guest.watch.refusing = True
    guest.log.add(log_of(0))
    guest.watch.find("taint", "tainted, and no log line explains it: W (the kernel warned)")
    assert [splat.kind for splat in guest.watch.refused] == ["atomic context", "taint"]
    guest.watch.allowances.append(allowance("tainted", "provoked"))
    assert [splat.kind for splat in guest.watch.refused] == ["atomic context"]


@pytest.mark.parametrize(
    ("patterns", "reason", "complaint"),
    [
        ((), "why", "allow is a regular expression"),
        ("", "why", "allow is a regular expression"),
        (7, "why", "not iterable"),
        ([7], "why", "allow is a regular expression"),
        ("x", "", "reason says why"),
        ("x", "  ", "reason says why"),
        ("x", None, "reason says why"),
        ("(", "why", "not a regular expression: '('"),
    ],
)
def test_arguments_that_make_no_allowance(patterns: object, reason: object, complaint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(complaint)):
        allowance(patterns, reason)  # type: ignore[arg-type]


def test_a_full_disk_costs_the_log_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.symlink_to("/dev/full")
    before = (b"before\n", [(0.0, 0)])
    with connected(splitter=FrameSplitter("big"), log=log, before=before) as (streams, far):
        streams.start()
        far.console.write(b"after\n")
        assert streams.wait_for(
            lambda: bytes(streams.console_text) == b"before\nafter\n" or None, Deadline(20)
        )
        assert streams.log_trouble == "No space left on device"
