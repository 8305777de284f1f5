"""A journal gives back what was noted, whatever it was and however much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.failures.journal_reading import read_entry
from pytest_kernelvm.guest.protocol import Batch, DataPointer, Reply, Step, StepResult
from pytest_kernelvm.vm.agent.journal import (
    HELD_BYTES,
    ConsoleInput,
    Exchange,
    Journal,
    JournalEntry,
    QemuSignal,
    QmpCommand,
)

arguments = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.builds(DataPointer, st.integers(0, 65535)),
    st.builds(StepResult, st.integers(0, 20)),
)
steps = st.builds(
    Step,
    call=st.one_of(st.sampled_from(["read", "openat"]), st.integers(0, 65535)),
    args=st.lists(arguments, max_size=6).map(tuple),
    out=st.none() | st.tuples(st.integers(0, 5), st.none() | st.integers(1, 4095)),
    always=st.booleans(),
    loop=st.booleans(),
)
replies = st.builds(
    Reply,
    results=st.lists(st.integers(-65536, 2**31 - 1), max_size=5).map(tuple),
    outputs=st.lists(st.binary(max_size=40), max_size=5).map(tuple),
)


def again(journal: Journal, since_s: float = 0.0) -> list[JournalEntry]:
    return [read_entry(line, "journal:1", any_command=True) for line in journal.lines(since_s)]


@settings(deadline=None)
@given(
    taken=st.lists(steps, max_size=4),
    data=st.binary(max_size=60),
    space_bytes=st.integers(0, 60000),
    reply=st.none() | replies,
    what=st.text(),
)
def test_an_exchange_comes_back(
    taken: list[Step], data: bytes, space_bytes: int, reply: Reply | None, what: str
) -> None:
    journal = Journal(Path("/nonexistent"))
    batch = Batch.from_parts(taken, content=data, space_bytes=space_bytes)
    noted = journal.begin(batch, what, 2.5, program=True)
    assert journal.pending is noted
    journal.end(noted, reply)
    assert journal.pending is None
    [read] = again(journal)
    assert isinstance(read, Exchange)
    assert (read.what, read.timeout_s, read.program) == (what, 2.5, True)
    assert (read.batch, read.reply) == (batch, reply)
    assert read.at_s == pytest.approx(noted.at_s, abs=1e-5)


def test_what_is_no_exchange_comes_back() -> None:
    journal = Journal(Path("/nonexistent"))
    journal.typed("é\n")
    journal.ordered("device_add", {"driver": "virtio-net", "id": 1})
    journal.signalled(9)
    typed, ordered, signalled = again(journal)
    assert isinstance(typed, ConsoleInput)
    assert typed.text == "é\n"
    assert isinstance(ordered, QmpCommand)
    assert (ordered.command, ordered.arguments) == ("device_add", {"driver": "virtio-net", "id": 1})
    assert isinstance(signalled, QemuSignal)
    assert signalled.number == 9
    assert typed.at_s <= ordered.at_s <= signalled.at_s


def test_times_are_relative_to_the_given_start() -> None:
    journal = Journal(Path("/nonexistent"))
    journal.typed("")
    [plain], [later] = again(journal), again(journal, since_s=10.0)
    assert plain.at_s - later.at_s == pytest.approx(10.0)


def test_what_is_too_much_for_memory_goes_into_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    data = bytes(60_000)
    exchanges = 3 * HELD_BYTES // len(data)
    for number in range(exchanges):
        batch = Batch()
        batch.data(data)
        journal.end(journal.begin(batch, f"{number}", 1.0, program=False), None)
    assert journal.file.exists()
    assert len(journal._entries) < exchanges
    assert journal.exchanges == exchanges
    entries = again(journal, since_s=5.0)
    assert [entry.what for entry in entries if isinstance(entry, Exchange)] == [
        str(n) for n in range(exchanges)
    ]
    assert [entry.at_s for entry in entries] == sorted(entry.at_s for entry in entries)


def test_text_can_be_read_by_people() -> None:
    journal = Journal(Path("/nonexistent"))
    batch = Batch()
    batch.text("/proc/version")
    journal.end(journal.begin(batch, "read", 1.0, program=False), Reply(results=(), outputs=()))
    [line] = journal.lines(0.0)
    assert json.loads(line)["data"] == "/proc/version\0"


@pytest.mark.parametrize("line", ["", "{}", '{"at_s": 1}', "nonsense", '{"at_s": 1, "what": 2}'])
def test_nonsense_is_refused(line: str) -> None:
    with pytest.raises(BadInput) as bad:
        read_entry(line, "journal.jsonl:7")
    assert bad.value.evidence.where == ("journal.jsonl:7",)
