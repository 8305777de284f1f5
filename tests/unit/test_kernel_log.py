"""The host's copy of a kernel's log: recorded bytes of /dev/kmsg."""

from __future__ import annotations

import pytest

from pytest_kernelvm.guest.protocol import LOG_BYTES, RECORD_BYTES
from pytest_kernelvm.vm.klog.kernel_log import (
    LIMIT_BYTES,
    MARK_RECORD,
    RAW_BYTES,
    LogCopy,
    may_be_incomplete,
)
from pytest_kernelvm.vm.klog.kmsg import parse_kmsg
from pytest_kernelvm.vm.klog.splats import read_splats

FIRST = b"6,0,0,-;Linux version 6.12.117\n6,1,1254483,-;serial8250.0: ttyS1\n SUBSYSTEM=platform\n"
WARNING = (
    b"4,2,2994473,-;------------[ cut here ]------------\n"
    b"4,3,2995090,-;WARNING: CPU: 0 PID: 61 at mine.c:23 act+0x8c/0x2f0 [mine]\n"
    b"4,4,2995100,-;---[ end trace 0000000000000000 ]---\n"
)
BY_A_PROGRAM = b"12,5,3000000,-;BUG: quoted by a program\n"


def copy_of(*pieces: bytes) -> LogCopy:
    copy = LogCopy()
    for piece in pieces:
        copy.add(piece)
    return copy


def test_it_reads_as_a_console_does() -> None:
    copy = copy_of(FIRST, WARNING)
    assert copy.text.decode().splitlines()[:2] == [
        "[    0.000000] Linux version 6.12.117",
        "[    1.254483] serial8250.0: ttyS1",
    ]
    [splat] = read_splats(copy.text.decode())
    assert (splat.kind, splat.guest_time_s, splat.complete) == ("WARNING", 2.994473, True)


def test_each_line_of_a_record_has_its_time_and_caller() -> None:
    copy = copy_of(b"4,0,18000000,c,caller=T61;two\\x0alines\n")
    assert copy.text == b"[   18.000000][   T61] two\n[   18.000000][   T61] lines\n"


def test_what_programs_wrote_is_not_in_the_text() -> None:
    copy = copy_of(FIRST, WARNING, BY_A_PROGRAM)
    assert b"quoted" not in copy.text
    assert (copy.gaps, copy.marks) == ([], 0)


def test_our_mark_is_recognised() -> None:
    """The agent hands over no words of programs."""
    copy = copy_of(FIRST, WARNING, BY_A_PROGRAM, b"191,6,4000000,-;\n")
    assert (copy.gaps, copy.marks) == ([], 1)
    assert MARK_RECORD.startswith(b"<191>")


def test_known_records_are_skipped() -> None:
    copy = copy_of(FIRST, FIRST + WARNING, WARNING)
    assert copy.text == copy_of(FIRST, WARNING).text
    assert copy.raw == FIRST + WARNING


@pytest.mark.parametrize(
    ("before", "after_s", "lost"), [(b"", -1.0, 2), (b"6,0,500000,-;first\n", 0.5, 1)]
)
def test_lost_records_are_reported(before: bytes, after_s: float, lost: int) -> None:
    copy = copy_of(before)
    assert not copy.add(WARNING, stop_at_gap=True)
    assert not copy.gaps
    copy.add(WARNING)
    [gap] = copy.gaps
    assert (gap.lost, gap.after_s, gap.before_s) == (lost, after_s, 2.994473)
    told = bytes(copy.text[gap.start : gap.end]).decode()
    assert f"{lost} record" in told
    assert "lost before they were read" in told


def test_a_second_reading_fills_what_an_answer_lost() -> None:
    copy = copy_of(FIRST)
    assert not copy.add(b"6,5,4000000,-;later\n", stop_at_gap=True)
    assert copy.add(FIRST + WARNING + b"6,5,4000000,-;later\n", stop_at_gap=True)
    assert not copy.gaps
    assert copy.text.endswith(b"later\n")


def test_each_guest_of_a_snapshot_has_its_own_copy() -> None:
    one, other = (LogCopy.read_before(FIRST) for _guest in range(2))
    one.add(WARNING)
    other.add(b"6,2,2000000,-;of another guest\n")
    assert b"cut here" in one.text
    assert b"cut here" not in other.text
    assert not other.gaps


def test_another_kernels_records_count_from_0_again() -> None:
    copy = copy_of(FIRST)
    copy.begin_anew()
    copy.add(b"6,0,0,-;Linux version 6.1\n")
    assert not copy.gaps
    assert copy.text.endswith(b"Linux version 6.1\n")
    assert copy.raw == b"6,0,0,-;Linux version 6.1\n"


@pytest.mark.parametrize(
    "raw", [b"\n", b"no record\n", b"6,1\n", b" KEY=value\n", b"\xff\xfe;\n", b"x,1,2,-;text\n"]
)
def test_what_is_no_record_is_passed_over(raw: bytes) -> None:
    copy = copy_of(raw, FIRST)
    assert copy.text == copy_of(FIRST).text


def test_a_full_answer_may_be_incomplete() -> None:
    assert not may_be_incomplete(0)
    assert not may_be_incomplete(LOG_BYTES - RECORD_BYTES)
    assert may_be_incomplete(LOG_BYTES - RECORD_BYTES + 1)


def flood(records: int, priority: int) -> bytes:
    line = "of very many lines" * 20
    return b"".join(
        f"{priority},{number},{number},-;line {number} {line}\n".encode()
        for number in range(records)
    )


def test_only_the_last_records_are_kept_as_raw_bytes() -> None:
    copy = copy_of(flood(20_000, 12))
    assert len(copy.raw) <= RAW_BYTES
    records = parse_kmsg(copy.raw.decode()).records
    assert records[-1].sequence == 19_999
    assert records[0].text.startswith("line ")
    assert (bytes(copy.text), copy.is_full) == (b"", False)


def test_a_kernel_that_does_nothing_but_talk_is_not_read_further() -> None:
    copy = copy_of(flood(40_000, 6))
    assert copy.is_full
    assert LIMIT_BYTES < len(copy.text) < LIMIT_BYTES + RECORD_BYTES
