"""A console that does nothing but talk takes little memory and time, and it is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.process import run
from pytest_kernelvm.vm.qemu.bounded_text import (
    CONSOLE_LIMIT_MIB,
    EXCERPT_BYTES,
    ArrivalTimes,
    BoundedText,
)
from tests.unit.flooding import FLOODS
from tests.unit.hostile_text import unprintable

ROOT = Path(__file__).parents[2]
PANIC = "a panic and no end"


def flooded(megabytes: int, limit_mib: int, *kinds: str) -> dict[str, Any]:
    """Return what a process says of each kind of flood that it was flooded with."""
    argv = [sys.executable, "-m", "tests.unit.flooding", str(megabytes), str(limit_mib), *kinds]
    found: dict[str, Any] = json.loads(run(argv, cwd=ROOT, timeout_s=400.0).stdout)
    return found


@pytest.fixture(scope="module")
def small_floods() -> dict[str, Any]:
    """What each kind takes, with a small limit."""
    return flooded(2, 1, *FLOODS)


@pytest.mark.parametrize("kind", [kind for kind in FLOODS if kind != PANIC])
def test_each_kind_of_flood_is_reported(small_floods: dict[str, Any], kind: str) -> None:
    told = small_floods[kind]
    assert told["trouble"] == "FLOOD"
    assert told["words"].startswith("boot-hang: : the console was flooded")
    assert "at most 1 MiB" in told["words"]
    assert "cut at 1 MiB" in told["words"]
    assert "kernelvm_console_limit" in told["words"]
    assert not unprintable(told["words"])
    assert told["kept"] == 1 << 20
    assert 0 < told["log"] - told["kept"] < 200


def test_a_panic_is_told_before_the_flood_behind_it(small_floods: dict[str, Any]) -> None:
    told = small_floods[PANIC]
    assert told["trouble"] == "PANIC"
    assert told["words"].startswith("panic: ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lines", "no end of a line", "splats"])
def test_what_a_large_flood_takes(kind: str) -> None:
    told = flooded(100, CONSOLE_LIMIT_MIB, kind)[kind]
    assert told["trouble"] == "FLOOD"
    assert told["kept"] == CONSOLE_LIMIT_MIB << 20
    assert told["more_mib"] < 64


def test_a_frame_without_an_end_takes_no_memory() -> None:
    splitter = FrameSplitter("little")
    for _time in range(200):
        assert splitter.feed(b"\x01" + b"\xff" * 65536) == ([], b"")
    assert splitter.feed(b"\x04text")[1].endswith(b"text")
    assert splitter.damaged >= 199


# A bounded text


def test_the_beginning_is_kept_and_the_rest_counted() -> None:
    text = BoundedText(10, b"1234", [(1.0, 0)])
    assert text.append(b"5678", 2.0) == b"5678"
    assert (text.dropped_bytes, text.is_cut) == (0, False)
    assert text.append(b"90", 3.0) == b"90"
    assert text.append(b"", 4.0) == b""
    assert text.dropped_bytes == 0
    assert text.append(b"x", 5.0) == b""
    assert text.append(b"yz", 6.0) == b""
    assert (bytes(text.raw), text.dropped_bytes, text.is_cut) == (b"1234567890", 3, True)
    assert list(text.times) == [(1.0, 0), (2.0, 4), (3.0, 8)]


def test_the_text_of_a_snapshot_counts_towards_the_limit() -> None:
    text = BoundedText(2, b"123")
    assert (bytes(text.raw), text.dropped_bytes) == (b"12", 1)


def test_arrival_times_of_bytes() -> None:
    times = ArrivalTimes([(1.0, 0), (2.0, 10)])
    times.note(2.0005, 20)
    times.note(3.0, 30)
    assert [times.arrival_of(offset) for offset in (0, 9, 10, 25, 30, 99)] == [1, 1, 2, 2, 3, 3]
    assert (len(times), times[-1], times[1:]) == (3, (3.0, 30), [(2.0, 10), (3.0, 30)])
    assert ArrivalTimes().arrival_of(5) == 0.0


@pytest.mark.parametrize("size", [0, 1, EXCERPT_BYTES, 2 * EXCERPT_BYTES, 2 * EXCERPT_BYTES + 1])
def test_a_short_text_is_its_own_excerpt(size: int) -> None:
    text = BoundedText(1 << 30, (b"0123456789abcde\n" * (size // 16 + 1))[:size])
    told = text.excerpt()
    assert ("bytes are in the log" in told) == (size > 2 * EXCERPT_BYTES)
    assert size > 2 * EXCERPT_BYTES or told == text.raw.decode()


def test_an_excerpt_has_what_is_asked_for() -> None:
    filler = b"." * (4 * EXCERPT_BYTES)
    text = BoundedText(1 << 30, b"first\r\n" + filler + b"splat" + filler + b"\nlast")
    at = text.raw.find(b"splat")
    told = text.excerpt((at, at + 5), (at + 1, at + 3))
    assert told.startswith("first\n.")
    assert told.endswith("\nlast")
    assert told.count("splat") == 1
    assert told.count("bytes are in the log") == 2
    assert "splat" not in text.excerpt()
