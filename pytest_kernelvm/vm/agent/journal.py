"""What was done with a guest, in order and with what it answered: enough to do it all again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_kernelvm.guest.protocol import Argument, Batch, DataPointer, Reply, Step, StepResult

# More than this is not held in memory; what came before goes into a file.
HELD_BYTES = 16 << 20


@dataclass(kw_only=True, slots=True)
class Exchange:
    """A batch of system calls and its reply.

    Attributes:
        at_s: When it was sent, on the monotonic clock.
        what: The request in words.
        timeout_s: Seconds that it was given.
        program: Whether a program was run.
        batch: The calls.
        reply: None where none came.
        took_s: Seconds until it was answered.
    """

    at_s: float
    what: str
    timeout_s: float
    program: bool
    batch: Batch
    reply: Reply | None = None
    took_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsoleInput:
    """Text that was typed on the console.

    Attributes:
        at_s: When, on the monotonic clock.
        text: What was typed.
    """

    at_s: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QmpCommand:
    """A QMP command.

    Attributes:
        at_s: When, on the monotonic clock.
        command: Its name.
        arguments: Under QEMU's names.
    """

    at_s: float
    command: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class QemuSignal:
    """A signal that QEMU was sent.

    Attributes:
        at_s: When, on the monotonic clock.
        number: Of the signal.
    """

    at_s: float
    number: int


JournalEntry = Exchange | ConsoleInput | QmpCommand | QemuSignal


@dataclass(slots=True)
class Journal:
    """All that was done with one guest.

    Attributes:
        file: Takes what is too much for memory.
        pending: The exchange that is not answered yet; None if there is none.
        exchanges: How many there were.
    """

    file: Path
    pending: Exchange | None = None
    exchanges: int = 0
    _entries: list[JournalEntry] = field(default_factory=list)
    _held_bytes: int = 0
    _spilled: bool = False

    def begin(self, batch: Batch, what: str, timeout_s: float, *, program: bool) -> Exchange:
        """Note a batch that is about to be sent; `end` notes what became of it.

        Args:
            batch: The calls.
            what: The request in words.
            timeout_s: Seconds that it is given.
            program: Whether it runs a program.

        Returns:
            What `end` takes.
        """
        exchange = Exchange(
            at_s=time.monotonic(), what=what, timeout_s=timeout_s, program=program, batch=batch
        )
        self.exchanges += 1
        self.pending = exchange
        self._entries.append(exchange)
        return exchange

    def end(self, exchange: Exchange, reply: Reply | None) -> None:
        """Note the reply to a batch.

        Args:
            exchange: What `begin` returned.
            reply: None if none came.
        """
        exchange.reply = reply
        exchange.took_s = time.monotonic() - exchange.at_s
        self.pending = None
        self._held_bytes += exchange.batch.data_bytes + 100 * len(exchange.batch.steps)
        if reply:
            self._held_bytes += sum(map(len, reply.outputs))
        if self._held_bytes > HELD_BYTES:
            self._spill()

    def typed(self, text: str) -> None:
        """Note text that is typed on the console."""
        self._entries.append(ConsoleInput(at_s=time.monotonic(), text=text))

    def ordered(self, command: str, arguments: dict[str, Any]) -> None:
        """Note a QMP command.

        Args:
            command: Its name.
            arguments: Under QEMU's names.
        """
        self._entries.append(
            QmpCommand(at_s=time.monotonic(), command=command, arguments=arguments)
        )

    def signalled(self, number: int) -> None:
        """Note a signal."""
        self._entries.append(QemuSignal(at_s=time.monotonic(), number=number))

    def _spill(self) -> None:
        with self.file.open("a" if self._spilled else "w") as file:
            for entry in self._entries:
                file.write(f"{json.dumps(_encoded(entry, 0.0))}\n")
        self._spilled = True
        self._entries.clear()
        self._held_bytes = 0

    def lines(self, since_s: float) -> Iterator[str]:
        """Give each entry as a line of JSON.

        Args:
            since_s: What times count from, on the monotonic clock.

        Yields:
            The lines, each with its LF.
        """
        if self._spilled:
            with self.file.open() as file:
                for line in file:
                    entry = json.loads(line)
                    entry["at_s"] = round(entry["at_s"] - since_s, 6)
                    yield f"{json.dumps(entry)}\n"
        for noted in self._entries:
            yield f"{json.dumps(_encoded(noted, since_s))}\n"


def _encoded(entry: JournalEntry, since_s: float) -> dict[str, Any]:
    at_s = {"at_s": round(entry.at_s - since_s, 6)}
    match entry:
        case ConsoleInput():
            return at_s | {"typed": entry.text}
        case QmpCommand():
            return at_s | {"qmp": entry.command, "arguments": entry.arguments}
        case QemuSignal():
            return at_s | {"signal": entry.number}
    reply = entry.reply
    return at_s | {
        "what": entry.what,
        "took_s": round(entry.took_s, 6),
        "timeout_s": entry.timeout_s,
        "program": entry.program,
        "steps": [_encoded_step(step) for step in entry.batch.steps],
        "data": _encoded_bytes(entry.batch.content),
        "space_bytes": entry.batch.space_bytes,
        "results": list(reply.results) if reply else None,
        "outputs": [_encoded_bytes(output) for output in reply.outputs] if reply else None,
    }


def _encoded_step(step: Step) -> dict[str, Any]:
    encoded: dict[str, Any] = {"call": step.call, "args": [_encoded_arg(arg) for arg in step.args]}
    if step.out:
        encoded["out"] = list(step.out)
    for name in ("always", "loop"):
        if getattr(step, name):
            encoded[name] = True
    return encoded


def _encoded_arg(arg: Argument) -> int | dict[str, int]:
    match arg:
        case DataPointer(offset):
            return {"pointer": offset}
        case StepResult(step):
            return {"result": step}
    return arg


def _encoded_bytes(data: bytes) -> str | dict[str, str]:
    """Return text as text, for those who read a journal, and all else in base64."""
    try:
        text = data.decode("ascii")
        if text.replace("\n", "").replace("\t", "").replace("\0", "").isprintable():
            return text
    except UnicodeDecodeError:
        pass
    return {"base64": base64.b64encode(data).decode()}
