"""The verdict on a guest that did not do what it was asked for, from all that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import (
    BootHang,
    Evidence,
    GuestDied,
    GuestHang,
    GuestPanic,
    KernelvmError,
    LaunchFailed,
    NoOutput,
)
from pytest_kernelvm.process import said, tail
from pytest_kernelvm.vm.transcript import HALTED, around_end, read_transcript


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptoms:
    """What is known when an answer does not come.

    ready: whether the agent had answered before. console: its whole text.
    status: QEMU's exit status, None as long as it runs. waited_s, for_what: what did not come.
    oddities: what was wrong with frames that came. began_anew: another boot's agent said hello.
    by_hand: the command that boots the same guest. argv: QEMU's, with the console on a terminal.
    """

    label: str
    ready: bool
    console: str
    console_log: Path
    qemu_log: Path
    status: int | None
    waited_s: float
    for_what: str
    oddities: str
    began_anew: bool
    by_hand: str
    argv: str


def diagnose(symptoms: Symptoms) -> KernelvmError:
    """Return the error that says what became of the guest, with its evidence."""
    found = read_transcript(symptoms.console)
    words = tail(symptoms.qemu_log)
    excerpt = around_end(symptoms.console) if symptoms.console else words
    reached = found.milestone or "nothing yet"

    def evidence(expected: str, seen: str) -> Evidence:
        return Evidence(
            expected=expected,
            seen=seen,
            excerpt=excerpt,
            where=(str(symptoms.console_log), str(symptoms.qemu_log)),
            next_step=f"to boot it by hand: {symptoms.by_hand}",
        )

    if found.panic:
        when = "while it was tested" if symptoms.ready else f"while booting, after {reached}"
        return GuestPanic(
            f"{symptoms.label}: {found.panic}",
            evidence(f"{symptoms.for_what}", f"the kernel panicked {when}"),
        )
    if symptoms.status is not None:
        return _ended(symptoms, words, reached, evidence)
    if halted := HALTED.search(symptoms.console):
        return GuestDied(
            f"{symptoms.label}: the machine halted and cannot end",
            evidence(symptoms.for_what, f"the kernel said: {halted[0]}"),
        )
    if symptoms.began_anew:
        return GuestDied(
            f"{symptoms.label}: the guest booted anew",
            evidence(f"an answer to: {symptoms.for_what}", "the hello of another boot's agent"),
        )
    if symptoms.ready:
        noise = f"; there came {symptoms.oddities}" if symptoms.oddities else ""
        return GuestHang(
            f"{symptoms.label}: no answer within {symptoms.waited_s:g} s",
            evidence(f"an answer to: {symptoms.for_what}", f"the guest runs and is silent{noise}"),
        )
    if not symptoms.console.strip():
        return NoOutput(
            f"{symptoms.label}: nothing on the console within {symptoms.waited_s:g} s",
            Evidence(
                expected="the kernel's banner",
                seen="QEMU runs and its console is empty",
                where=(str(symptoms.qemu_log),),
                command=symptoms.argv,
                next_step="a kernel for another CPU or endianness says nothing, nor does one "
                "without console= or its serial driver",
            ),
        )
    return BootHang(
        f"{symptoms.label}: the agent did not answer within {symptoms.waited_s:g} s",
        evidence("the agent's hello", f"the guest came as far as: {reached}"),
    )


def _ended(
    symptoms: Symptoms, words: str, reached: str, evidence: Callable[[str, str], Evidence]
) -> KernelvmError:
    """QEMU is gone: it never started, or it ended under the guest."""
    assert symptoms.status is not None
    end = f"QEMU {said(symptoms.status)}"
    if not symptoms.console and not symptoms.ready and symptoms.status != 0:
        return LaunchFailed(
            f"{symptoms.label}: {end}",
            Evidence(
                expected="QEMU to start",
                seen=end,
                excerpt=words,
                where=(str(symptoms.qemu_log),),
                command=symptoms.argv,
            ),
        )
    during = "while it was tested" if symptoms.ready else f"while booting, after {reached}"
    return GuestDied(
        f"{symptoms.label}: {end} {during}",
        evidence(symptoms.for_what, f"{end}; {words}" if words else end),
    )
