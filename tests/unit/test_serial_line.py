"""A serial line's two pipes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kernelvm.vm.qemu.serial_line import SerialEndpoint, named_pipes, serial_line

CAPACITY_BYTES = 1 << 18

Line = tuple[SerialEndpoint, SerialEndpoint]


@pytest.fixture
def line() -> Iterator[Line]:
    ends = serial_line(CAPACITY_BYTES)
    yield ends
    for end in ends:
        end.close()


def test_both_directions(line: Line) -> None:
    ours, theirs = line
    theirs.write(b"to us")
    ours.write(b"to them")
    assert (ours.read(), theirs.read()) == (b"to us", b"to them")


def test_nothing_yet_is_not_the_end(line: Line) -> None:
    ours, theirs = line
    ours.setblocking(False)
    assert ours.read() is None
    theirs.close()
    assert ours.read() == b""
    with pytest.raises(BrokenPipeError):
        ours.write(b"to nobody")


def test_single_bytes_fill_it_only_when_they_are_many(line: Line) -> None:
    _ours, theirs = line
    theirs.setblocking(False)
    for number in range(CAPACITY_BYTES):
        theirs.write(bytes([number % 256]))
    with pytest.raises(BlockingIOError):
        theirs.write(b"one more")


def test_a_closed_end_stays_closed(line: Line) -> None:
    ours, _theirs = line
    ours.close()
    ours.close()
    assert ours.read() == b""


def test_names_last_as_long_as_the_context(line: Line, tmp_path: Path) -> None:
    ours, theirs = line
    with named_pipes(theirs, tmp_path / "console") as name:
        with Path(f"{name}.out").open("wb", buffering=0) as out:
            out.write(b"by its name")
        assert ours.read() == b"by its name"
        ours.write(b"back")
        with Path(f"{name}.in").open("rb", buffering=0) as back:
            assert os.read(back.fileno(), 9) == b"back"
    assert list(tmp_path.iterdir()) == []
