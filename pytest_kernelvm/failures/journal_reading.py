"""Reading journals: a bundle may be somebody else's, so all entries are checked before any is used.

The numbers of system calls and their arguments are the guest's business and go to the guest alone.
What goes to QEMU is an allow-list: of its protocol's commands many read and write the host's files.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.json_fields import Fields, parse_json
from pytest_kernelvm.guest.protocol import (
    MEMORY_BYTES,
    Argument,
    Batch,
    DataPointer,
    Reply,
    Step,
    StepResult,
)
from pytest_kernelvm.vm.agent.journal import (
    ConsoleInput,
    Exchange,
    JournalEntry,
    QemuSignal,
    QmpCommand,
)

# A test that lasts longer than a day cannot be replayed.
LONGEST_S = 86400.0
MOST_BYTES = 512 << 20
# A batch with its reply, in base64; text that a test typed may be longer.
MOST_LINE_BYTES = 4 << 20
_MOST_STEPS = 4096
_WORDS = (1 << 31, 1 << 32)
_MOST_SIGNAL = 64

# Commands that only ask QEMU, or do what a machine's buttons do.
_WITHOUT_ARGUMENTS = frozenset(
    (
        *("query-status", "query-version", "query-name", "query-uuid", "query-kvm"),
        *("query-cpus-fast", "query-block", "query-blockstats", "query-chardev", "query-pci"),
        *("query-balloon", "query-iothreads", "query-memory-size-summary", "query-target"),
        *("query-memory-devices", "query-hotpluggable-cpus", "query-machines", "query-mice"),
        *("query-commands", "query-migrate", "query-rx-filter", "query-events", "query-jobs"),
        *("query-qmp-schema", "query-named-block-nodes", "query-gic-capabilities"),
        *("stop", "cont", "system_reset", "system_powerdown", "system_wakeup", "inject-nmi"),
        "quit",
    )
)
_NAME = r"[A-Za-z0-9_.\[\]/:-]{1,200}"
# Commands and their arguments, each a pattern of a text, or a type.
_WITH_ARGUMENTS: Mapping[str, Mapping[str, str | type]] = {
    "balloon": {"value": int},
    "device_del": {"id": _NAME},
    "qom-get": {"path": _NAME, "property": _NAME},
    "qom-list": {"path": _NAME},
    "set_link": {"name": _NAME, "up": bool},
}
# Lines of the monitor for people (`kernelvm` itself forwards ports with one).
_MONITOR = re.compile(
    r"info [a-z][a-z0-9-]{1,30}(?: [a-z0-9-]{1,30}){0,2}"
    r"|stop|cont|c|nmi|system_reset|system_powerdown|system_wakeup"
    r"|xp?/[0-9]{0,6}[xduoci]?[bhwg]? 0x[0-9a-f]{1,16}"
    r"|sendkey [a-z0-9_-]{1,60}(?: [0-9]{1,6})?"
    r"|hostfwd_add net0 (?:tcp|udp):127\.0\.0\.1:0-:[0-9]{1,5}"
)


def read_journal(file: Path, *, any_command: bool = False) -> tuple[JournalEntry, ...]:
    """Return all entries of a journal.

    Raises OSError if it cannot be read.

    Args:
        file: The journal.
        any_command: Whether QMP commands beside those of the allow-list may be in it.

    Raises:
        BadInput: A line is no entry, or too long, or there are too many; with the line.
    """
    entries = []
    with file.open("rb") as stream:
        size = 0
        for number, line in enumerate(_lines(stream, file), 1):
            size += len(line)
            if size > MOST_BYTES:
                raise BadInput(
                    "a journal of a bundle is too large",
                    Evidence(expected=f"at most {MOST_BYTES >> 20} MiB", where=(str(file),)),
                )
            entries.append(read_entry(line, f"{file}:{number}", any_command=any_command))
    return tuple(entries)


def _lines(stream: Any, file: Path) -> Iterator[bytes]:
    while line := stream.readline(MOST_LINE_BYTES + 1):
        if len(line) > MOST_LINE_BYTES:
            raise BadInput(
                "a journal of a bundle has a line that is too long",
                Evidence(expected=f"at most {MOST_LINE_BYTES >> 20} MiB", where=(str(file),)),
            )
        yield line


def read_entry(line: bytes | str, where: str, *, any_command: bool = False) -> JournalEntry:
    """Return the entry in a line of a journal.

    Raises BadInput if it is none.

    Args:
        line: The line.
        where: Its place, for the error.
        any_command: As of `read_journal`.
    """
    entry = Fields(parse_json(line, where), where)
    at_s = entry.number("at_s", -LONGEST_S, LONGEST_S)
    found: JournalEntry
    if entry.has("typed"):
        text = entry.text("typed", pattern=r"(?s:.*)", shape="a text", most=MOST_LINE_BYTES)
        found = ConsoleInput(at_s=at_s, text=_encodable(entry, text))
    elif entry.has("qmp"):
        found = _qmp_command(entry, at_s, where, any_command=any_command)
    elif entry.has("signal"):
        found = QemuSignal(at_s=at_s, number=entry.whole("signal", 1, _MOST_SIGNAL))
    else:
        found = _exchange(entry, at_s)
    entry.done()
    return found


def _encodable(entry: Fields, text: str) -> str:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise entry.refused("typed", "a text", ascii(text[:80])) from None
    return text


def _qmp_command(entry: Fields, at_s: float, where: str, *, any_command: bool) -> QmpCommand:
    command = entry.text("qmp", pattern=r"[A-Za-z0-9_.-]{1,80}", shape="a QMP command")
    arguments = entry.take("arguments")
    if not isinstance(arguments, dict):
        raise entry.refused("arguments", "an object", ascii(arguments)[:80])
    if not any_command and not is_allowed(command, arguments):
        _refuse_command(command, arguments, where)
    return QmpCommand(at_s=at_s, command=command, arguments=arguments)


def is_allowed(command: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a QMP command can reach nothing of the host but its own guest.

    Args:
        command: Its name.
        arguments: Its arguments, under QEMU's names.
    """
    if command in _WITHOUT_ARGUMENTS:
        return not arguments
    if command == "human-monitor-command":
        line = arguments.get("command-line")
        return len(arguments) == 1 and isinstance(line, str) and bool(_MONITOR.fullmatch(line))
    if command == "send-key":
        return _are_keys(arguments)
    known = _WITH_ARGUMENTS.get(command)
    return (
        known is not None
        and arguments.keys() == known.keys()
        and all(_fits(arguments[name], expected) for name, expected in known.items())
    )


def _fits(value: object, expected: str | type) -> bool:
    if isinstance(expected, str):
        return isinstance(value, str) and bool(re.fullmatch(expected, value))
    return type(value) is expected


def _are_keys(arguments: Mapping[str, Any]) -> bool:
    keys = arguments.get("keys")
    hold = arguments.get("hold-time", 1)
    return (
        arguments.keys() <= {"keys", "hold-time"}
        and isinstance(keys, list)
        and len(keys) <= 10
        and all(isinstance(key, dict) and key.keys() == {"type", "data"} for key in keys)
        and all(key["type"] == "qcode" and _fits(key["data"], r"[a-z0-9_]{1,30}") for key in keys)
        and type(hold) is int
        and 0 <= hold <= 100_000
    )


def _refuse_command(command: str, arguments: Mapping[str, Any], where: str) -> NoReturn:
    raise BadInput(
        f"a bundle wants the QMP command {command}, which is not among those that do no harm",
        Evidence(
            expected="a query, or a command such as stop, reset, power button, key or cable",
            seen=ascii(dict(arguments))[:200],
            where=(where,),
            next_step="--allow=qmp, if you made the bundle or trust who did: it can have QEMU "
            "read and write your files",
        ),
    )


def _exchange(entry: Fields, at_s: float) -> Exchange:
    what = entry.text("what", pattern=r"(?s:.*)", shape="a text", most=1 << 20)
    exchange = Exchange(
        at_s=at_s,
        what=what,
        took_s=entry.number("took_s", 0, LONGEST_S),
        timeout_s=entry.number("timeout_s", 0, LONGEST_S),
        program=entry.flag("program"),
        batch=Batch.from_parts(
            [_step(step) for step in entry.objects("steps", _MOST_STEPS)],
            content=_bytes(entry, "data", entry.take("data")),
            space_bytes=entry.whole("space_bytes", 0, MEMORY_BYTES),
        ),
        reply=_reply(entry),
    )
    batch = exchange.batch
    # As Batch.encode() lays it out: a head, the steps, and the checksum, aligned.
    steps_bytes = sum(8 + 4 * len(step.args) for step in batch.steps)
    size = 8 + steps_bytes + 8 + batch.data_bytes + batch.space_bytes + 4
    if size > MEMORY_BYTES + 8:
        raise entry.refused("steps", f"a batch of at most {MEMORY_BYTES} bytes", f"{size} bytes")
    return exchange


def _reply(entry: Fields) -> Reply | None:
    if entry.is_null("results"):
        if entry.take("outputs") is not None:
            raise entry.refused("outputs", "none, as there are no results", "some")
        return None
    results = entry.whole_numbers("results", -_WORDS[0], _WORDS[1] - 1, _MOST_STEPS)
    outputs = entry.items("outputs", _MOST_STEPS)
    return Reply(
        results=results,
        outputs=tuple(
            _bytes(entry, f"outputs[{number}]", each) for number, each in enumerate(outputs)
        ),
    )


def _step(step: Fields) -> Step:
    call = step.take("call")
    if isinstance(call, str):
        if not re.fullmatch(r"[a-z0-9_]{1,64}", call):
            raise step.refused("call", "a system call's name", ascii(call)[:80])
    elif type(call) is not int or not 0 <= call <= 0xFFFF:
        raise step.refused("call", "a system call's name or number", ascii(call)[:80])
    args = tuple(_argument(step, arg) for arg in step.items("args", 6))
    out = _output(step) if step.has("out") else None
    always = step.flag("always") if step.has("always") else False
    loop = step.flag("loop") if step.has("loop") else False
    step.done()
    return Step(call=call, args=args, out=out, always=always, loop=loop)


def _output(step: Fields) -> tuple[int, int | None]:
    """Return which argument of a step points at its output, and how long that is."""
    given = step.items("out", 2)
    if len(given) != 2 or not _is_whole(given[0], 0, 5):
        raise step.refused("out", "an argument's number and a length", ascii(given)[:80])
    if given[1] is not None and not _is_whole(given[1], 0, 4095):
        raise step.refused("out", "a length up to 4095, or null", ascii(given)[:80])
    return given[0], given[1]


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _argument(step: Fields, arg: Any) -> Argument:
    if _is_whole(arg, -_WORDS[0], _WORDS[1] - 1):
        return int(arg)
    if isinstance(arg, dict) and len(arg) == 1:
        for name, kind in (("pointer", DataPointer), ("result", StepResult)):
            if name in arg and _is_whole(arg[name], 0, MEMORY_BYTES):
                return kind(arg[name])
    raise step.refused("args", "numbers of 32 bits, pointers and results", ascii(arg)[:80])


def _bytes(entry: Fields, name: str, data: Any) -> bytes:
    """Return bytes that are written as text or in base64."""
    try:
        if isinstance(data, str):
            return data.encode("ascii")
        if isinstance(data, dict) and data.keys() == {"base64"}:
            return base64.b64decode(data["base64"], validate=True)
    except (ValueError, TypeError):
        pass
    raise entry.refused(name, "ASCII text, or base64", ascii(data)[:80])
