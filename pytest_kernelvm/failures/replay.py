"""Repeating what was done with the guests of a bundle, and comparing what they answer."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_kernelvm.errors import CommandFailed, KernelvmError
from pytest_kernelvm.failures.bundle import Bundle, BundleGuest, Permissions
from pytest_kernelvm.guest.protocol import Reply
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.agent.journal import (
    ConsoleInput,
    Exchange,
    JournalEntry,
    QemuSignal,
    QmpCommand,
)
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import boot_guest, restore_guest
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.qemu.snapshot import SnapshotUnusable

# Shorter pauses of the test are not waited for again.
SHORTEST_PAUSE_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A reply that is not the one of the journal.

    Attributes:
        number: Of the exchange, from 1.
        what: What the exchange did.
        recorded: The journal's reply in words.
        replayed: The new reply in words.
    """

    number: int
    what: str
    recorded: str
    replayed: str


@dataclass(kw_only=True, slots=True)
class Comparison:
    """How a replay compares with its journal.

    Attributes:
        exchanges: How many were made.
        same: How many had the same reply, byte by byte.
        alike: Those in which each call succeeded or failed as before, but something else was read,
            such as a time or a random number.
        differing: The other ones.
        error: What the last exchange raised, None if nothing.
    """

    exchanges: int = 0
    same: int = 0
    alike: list[Difference] = field(default_factory=list)
    differing: list[Difference] = field(default_factory=list)
    error: KernelvmError | None = None

    def add(self, what: str, recorded: Reply | None, replayed: Reply | None) -> None:
        """Compare the replies to one exchange.

        Args:
            what: What the exchange did.
            recorded: The journal's reply, None for none.
            replayed: The new reply, None for none.
        """
        self.exchanges += 1
        if recorded == replayed:
            self.same += 1
            return
        difference = Difference(
            number=self.exchanges,
            what=what,
            recorded=_reply_in_words(recorded),
            replayed=_reply_in_words(replayed),
        )
        if recorded and replayed and _outcomes(recorded) == _outcomes(replayed):
            self.alike.append(difference)
        else:
            self.differing.append(difference)


def _outcomes(reply: Reply) -> list[int]:
    """Return which calls failed, and how."""
    return [min(result, 0) for result in reply.results]


def _reply_in_words(reply: Reply | None) -> str:
    if reply is None:
        return "no reply"
    outputs = b" ".join(output for output in reply.outputs if output)
    shown = f" {outputs[:60]!r}" if outputs else ""
    return f"{' '.join(map(str, reply.results))}{shown}"


@contextlib.contextmanager
def replayed_guests(
    bundle: Bundle,
    store: Store,
    directory: Path,
    *,
    allowed: Permissions,
    fresh: str,
    started: Callable[[Vm], None],
) -> Iterator[tuple[Vm, ...]]:
    """Give the guests of a bundle as they were when their test got them.

    Raises what a boot raises, and BadInput for a damaged bundle.

    Args:
        bundle: The bundle.
        store: Has, or gets, the calibration of this machine.
        directory: Gets their logs.
        allowed: What the user lets the bundle do.
        fresh: `restore` to restore a guest where the bundle has its snapshot, or `boot`.
        started: Called with each guest as soon as it is launched.

    Yields:
        The guests in the order of their launch; they end with the context.
    """
    # All is checked before the first of them is launched.
    bootables = [kept.bootable(store, allowed) for kept in bundle.guests]
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as cable:
            ends = [cable.enter_context(end) for end in socket.socketpair()]
            vms = []
            for number, kept in enumerate(bundle.guests):
                logs = directory / f"guest-{number}"
                logs.mkdir()
                bootable = bootables[number]
                link = ends.pop(0) if ends and bootable.boot.network == "link" else None
                vms.append(
                    stack.enter_context(_replayed_guest(bootable, kept, logs, fresh, started, link))
                )
        yield tuple(vms)


@contextlib.contextmanager
def _replayed_guest(
    bootable: Bootable,
    kept: BundleGuest,
    logs: Path,
    fresh: str,
    started: Callable[[Vm], None],
    link: socket.socket | None,
) -> Iterator[Vm]:
    snapshot = kept.snapshot() if fresh == "restore" else None
    with contextlib.ExitStack() as stack:
        vm = None
        if snapshot:
            with contextlib.suppress(SnapshotUnusable):
                vm = stack.enter_context(
                    restore_guest(bootable, logs, snapshot, started, link=link)
                )
        if vm is None:
            vm = stack.enter_context(boot_guest(bootable, logs, started, link=link))
        yield vm


def replay(
    bundle: Bundle,
    entries: Sequence[tuple[int, JournalEntry]],
    vms: Sequence[Vm],
    *,
    pauses: bool = True,
    show: Callable[[Vm, JournalEntry, str], None],
) -> Comparison:
    """Do with fresh guests what the bundle's journals say, in the same order.

    It ends early when a guest fails that did not fail before.

    Args:
        bundle: The bundle.
        entries: Of `recorded_entries`.
        vms: Of `replayed_guests`.
        pauses: Whether to wait where the test waited.
        show: Called with each entry's guest, the entry, and a word for how its reply compares.

    Returns:
        How the replies compare.
    """
    comparison = Comparison()
    began = time.monotonic()
    first_s = max(kept.note.started_s + kept.note.ready_s for kept in bundle.guests)
    for number, entry in entries:
        if pauses:
            ahead_s = entry.at_s - first_s - (time.monotonic() - began)
            if ahead_s > SHORTEST_PAUSE_S:
                time.sleep(ahead_s)
        vm = vms[number]
        if isinstance(entry, Exchange):
            goes_on = _repeat_exchange(vm, entry, comparison)
            show(vm, entry, _comparison_word(comparison))
            if not goes_on:
                break
        else:
            show(vm, entry, "")
            _repeat_input(vm, entry)
    return comparison


def recorded_entries(bundle: Bundle, allowed: Permissions) -> tuple[tuple[int, JournalEntry], ...]:
    """Return the entries of all journals with their guests' numbers, in the order of the test.

    Raises BadInput for a damaged journal, or one that wants more than is allowed.

    Args:
        bundle: The bundle.
        allowed: What the user lets the bundle do.
    """
    found = [
        (number, entry)
        for number, kept in enumerate(bundle.guests)
        for entry in kept.entries(allowed)
    ]
    return tuple(sorted(found, key=lambda pair: pair[1].at_s))


def _repeat_exchange(vm: Vm, entry: Exchange, comparison: Comparison) -> bool:
    """Make an exchange again and compare; return whether there is a point in going on."""
    try:
        reply = vm.control.transactions.repeat(entry)
    except CommandFailed:
        # The program was killed when its time was up.
        comparison.add(entry.what, entry.reply, None)
        return True
    except KernelvmError as error:
        comparison.add(entry.what, entry.reply, None)
        comparison.error = error
        return entry.reply is None and not vm.control.ended
    comparison.error = None
    comparison.add(entry.what, entry.reply, reply)
    return True


def _comparison_word(comparison: Comparison) -> str:
    """Return how the last reply compares, in a word."""
    for word, found in (("differs", comparison.differing), ("alike", comparison.alike)):
        if found and found[-1].number == comparison.exchanges:
            return word
    return "same"


def _repeat_input(vm: Vm, entry: JournalEntry) -> None:
    """Do what has no reply; a QEMU that is gone is noticed by the next exchange."""
    with contextlib.suppress(KernelvmError, ProcessLookupError):
        match entry:
            case ConsoleInput():
                vm.console.write(entry.text)
            case QmpCommand():
                vm.qmp.query(entry.command, **entry.arguments)
            case QemuSignal():
                os.kill(vm.pid, entry.number)
