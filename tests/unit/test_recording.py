"""A console over time, as it was: text with both clocks, casts, live."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import arch_named
from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.process import Deadline, spawn
from pytest_kernelvm.report.observer import LinePrefixer
from pytest_kernelvm.vm.agent.channel import Channel
from pytest_kernelvm.vm.klog.kernel_log import LogCopy
from pytest_kernelvm.vm.machine.console import Console
from pytest_kernelvm.vm.machine.recording import following, two_clocks, write_cast
from pytest_kernelvm.vm.qemu.bounded_text import APART_S, CONSOLE_LIMIT_MIB
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.qemu.streams import connected
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector

BEFORE = b"[    0.000000] Linux version 6.12\r\n[    0.1"


@dataclass(kw_only=True)
class Unlabelled:
    label: str = ""
    boot_command: str = ""
    quoted_argv: str = ""


class Line:
    """A console whose other end is ours."""

    def __init__(
        self,
        directory: Path,
        before: bytes = b"",
        *,
        shared: bool = False,
        limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
    ) -> None:
        self.now = time.monotonic()
        at = [(self.now - 3.0, 0), (self.now - 2.0, before.find(b"\n") + 1)] if before else []
        self._stack = contextlib.ExitStack()
        log = directory / "console.log"
        self.streams, self.far = self._stack.enter_context(
            connected(
                splitter=FrameSplitter("little"),
                log=log,
                shared=shared,
                before=(before, at),
                limit_bytes=limit_bytes,
            )
        )
        self.typed: list[str] = []
        self.collector = self._collector(directory)
        self.console = Console(
            self.streams,
            directory / "console.log",
            5.0,
            self.collector,
            self.typed.append,
            lambda: True,
        )
        self.streams.start()

    def _collector(self, directory: Path) -> VerdictCollector:
        """Return a collector of a process that is alive."""
        qemu_log = directory / "qemu.log"
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        started = Launch(
            process=self._stack.enter_context(spawn(sleeper, output=qemu_log)),
            streams=self.streams,
            console_log=directory / "console.log",
            qemu_log=qemu_log,
            state_descriptor=None,
        )
        channel = Channel(self.streams, arch_named("aarch64"), {}, lambda: False)
        return VerdictCollector(
            Unlabelled(),
            started,
            channel,
            Qmp(self.streams),
            arch_named("aarch64"),
            directory / "Image",
            start=0,
            log=LogCopy(),
            log_start=0,
        )

    def say(self, data: bytes) -> None:
        """Have the guest say something, and wait until it was heard."""
        expected = len(self.streams.console_text) + len(data)
        self.far.console.write(data)
        heard = self.streams.wait_for(
            lambda: len(self.streams.console_text) >= expected or None, Deadline(10)
        )
        assert heard

    def end(self) -> None:
        self.far.close()
        self._stack.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path, BEFORE)
    yield made
    made.end()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.end()


def test_each_line_has_both_clocks(line: Line) -> None:
    line.say(b"00000] second\n[    1.0] third\n")
    text = two_clocks(line.console, line.now)
    assert [part.split(maxsplit=1)[1] for part in text.splitlines()] == [
        "[    0.000000] Linux version 6.12",
        "[    0.100000] second",
        "[    1.0] third",
    ]
    times = [float(part.split()[0]) for part in text.splitlines()]
    assert times[:2] == [-3.0, -2.0]
    assert times[2] >= 0


def test_a_line_without_an_end_is_shown(line: Line) -> None:
    assert two_clocks(line.console, line.now).splitlines()[-1].endswith("  [    0.1")


def test_a_cast_has_its_format(line: Line, tmp_path: Path) -> None:
    """The format: docs.asciinema.org/manual/asciicast/v2."""
    line.say("é".encode()[:1])
    time.sleep(2 * APART_S)
    line.say("é\r\n".encode()[1:])
    file = tmp_path / "it.cast"
    write_cast(line.console, file, "a title")
    header, *events = [json.loads(each) for each in file.read_text().splitlines()]
    assert header["version"] == 2
    assert header["title"] == "a title"
    assert {"width", "height", "timestamp"} <= set(header)
    assert abs(header["timestamp"] - (time.time() - 3)) < 30
    assert all(kind == "o" for _, kind, _ in events)
    assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)
    assert events[0][0] == 0
    assert "".join(text for _, _, text in events) == BEFORE.decode() + "é\r\n"


def test_a_silent_console_makes_an_empty_cast(silent: Line, tmp_path: Path) -> None:
    write_cast(silent.console, tmp_path / "it.cast", "")
    assert len((tmp_path / "it.cast").read_text().splitlines()) == 1
    assert two_clocks(silent.console, silent.now) == ""


def test_bytes_that_come_together_are_one_piece(line: Line) -> None:
    for byte in b"0123456789" * 19:
        line.far.console.write(bytes([byte]))
    line.say(b"0123456789")
    line.streams.drain()
    assert len(line.console.times) < 60
    assert line.console.raw == BEFORE + b"0123456789" * 20


def test_following_misses_nothing_and_shows_nothing_twice(line: Line) -> None:
    shown: list[str] = []
    with following(line.console, shown.append, since=len(BEFORE)):
        for number in range(200):
            line.say(f"{number}\r\n".encode())
    assert "".join(shown) == "".join(f"{number}\n" for number in range(200))


def test_following_ends_with_the_console(line: Line) -> None:
    shown: list[str] = []
    with following(line.console, shown.append):
        line.far.console.write(b"last words")
        line.far.console.close()
        line.streams.wait_for(lambda: line.streams.console_ended or None, Deadline(10))
    assert "".join(shown).endswith("last words")


def test_what_is_typed_is_noted(line: Line) -> None:
    line.console.write("help\n")
    assert line.typed == ["help\n"]
    assert line.far.console.read() == b"help\n"


def test_lines_get_their_guests_name() -> None:
    labelled = LinePrefixer("malta")
    pieces = ("one\ntw", "", "o\n", "three")
    assert [labelled(piece) for piece in pieces] == [
        "malta | one\nmalta | tw",
        "",
        "o\n",
        "malta | three",
    ]
