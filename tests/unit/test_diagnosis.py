"""The verdict on a guest that does not answer, from its console, QEMU's status and words."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.errors import (
    BootHang,
    GuestDied,
    GuestHang,
    GuestPanic,
    KernelvmError,
    LaunchFailed,
    NoOutput,
    Verdict,
)
from pytest_kernelvm.vm.diagnosis import Symptoms, diagnose
from tests.unit.test_transcript import console

CPU_WORDS = "qemu-system-mips: unable to find CPU model 'no-such-cpu'\n"


def symptoms(
    directory: Path,
    *,
    ready: bool,
    text: str,
    status: int | None = None,
    qemu_said: str = "",
    oddities: str = "",
    began_anew: bool = False,
) -> Symptoms:
    qemu_log = directory / "qemu.log"
    qemu_log.write_text(qemu_said)
    return Symptoms(
        label="malta-6.12",
        ready=ready,
        console=text,
        console_log=directory / "console.log",
        qemu_log=qemu_log,
        status=status,
        waited_s=60.0,
        for_what="read /proc/version",
        oddities=oddities,
        began_anew=began_anew,
        by_hand="kernelvm boot malta-6.12",
        argv="qemu-system-mips -M malta",
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A console and what is made of it. excerpt: how its first and its last line end."""

    console: str
    ready: bool
    status: int | None = None
    error: type[KernelvmError]
    summary: str
    seen: str
    excerpt: tuple[str, str]


ROWS = [
    Row(
        console="aarch64_sysrq_crash",
        ready=True,
        status=0,
        error=GuestPanic,
        summary="sysrq triggered crash",
        seen="the kernel panicked while it was tested",
        excerpt=("Run /init as init process", "Memory Limit: none"),
    ),
    Row(
        console="aarch64_no_root",
        ready=False,
        status=0,
        error=GuestPanic,
        summary="VFS: Unable to mount root fs on unknown-block(0,0)",
        seen="the kernel panicked while booting, after the initramfs",
        excerpt=("No filesystem could mount root, tried: ", "Memory Limit: none"),
    ),
    Row(
        console="aarch64_init_exited",
        ready=False,
        status=0,
        error=GuestPanic,
        summary="Attempted to kill init! exitcode=0x00000300",
        seen="the kernel panicked while booting, after init",
        excerpt=("Freeing unused kernel memory: 640K", "Memory Limit: none"),
    ),
    Row(
        console="aarch64_quiet_panic",
        ready=False,
        status=0,
        error=GuestPanic,
        summary="Attempted to kill init! exitcode=0x00000300",
        seen="the kernel panicked while booting, after nothing yet",
        excerpt=("Attempted to kill init! exitcode=0x00000300", "Memory Limit: none"),
    ),
    Row(
        console="malta_oops_panic",
        ready=True,
        error=GuestPanic,
        summary="Fatal exception",
        seen="the kernel panicked while it was tested",
        excerpt=("Run /init as init process", "not syncing: Fatal exception"),
    ),
    Row(
        console="malta_early_hang",
        ready=False,
        error=BootHang,
        summary="the agent did not answer within 60 s",
        seen="the guest came as far as: the kernel's banner",
        excerpt=("GNU Binutils for Debian) 2.40) #1 @0", "OF: reserved m"),
    ),
    Row(
        console="aarch64_console_hang",
        ready=False,
        error=BootHang,
        summary="the agent did not answer within 60 s",
        seen="the guest came as far as: the console",
        excerpt=("wraps every 4398046511096ns", "console [ttyAMA0] enabled"),
    ),
    Row(
        console="malta_ready",
        ready=False,
        error=BootHang,
        summary="the agent did not answer within 60 s",
        seen="the guest came as far as: init",
        excerpt=(
            "UDP hash table entries: 256 (order: 0, 4096 bytes, linear)",
            "Run /init as init process",
        ),
    ),
    Row(
        console="malta_ready",
        ready=True,
        error=GuestHang,
        summary="no answer within 60 s",
        seen="the guest runs and is silent",
        excerpt=(
            "UDP hash table entries: 256 (order: 0, 4096 bytes, linear)",
            "Run /init as init process",
        ),
    ),
    Row(
        console="malta_bug",
        ready=True,
        error=GuestHang,
        summary="no answer within 60 s",
        seen="the guest runs and is silent",
        excerpt=("initmem) memory: 172K", "[ end trace 0000000000000000 ]---"),
    ),
    Row(
        console="aarch64_warning",
        ready=True,
        error=GuestHang,
        summary="no answer within 60 s",
        seen="the guest runs and is silent",
        excerpt=("Run /init as init process", "[ end trace 0000000000000000 ]---"),
    ),
    Row(
        console="malta_halted",
        ready=True,
        error=GuestDied,
        summary="the machine halted and cannot end",
        seen="the kernel said: Reboot failed -- System halted",
        excerpt=("GNU Binutils for Debian) 2.40) #1 @0", "Reboot failed -- System halted"),
    ),
    Row(
        console="aarch64_oops",
        ready=True,
        status=0,
        error=GuestDied,
        summary="QEMU ended with status 0 while it was tested",
        seen="QEMU ended with status 0",
        excerpt=("Freeing unused kernel memory: 640K", "[ end trace 0000000000000000 ]---"),
    ),
    Row(
        console="malta_early_hang",
        ready=False,
        status=0,
        error=GuestDied,
        summary="QEMU ended with status 0 while booting, after the kernel's banner",
        seen="QEMU ended with status 0",
        excerpt=("GNU Binutils for Debian) 2.40) #1 @0", "OF: reserved m"),
    ),
    Row(
        console="malta_ready",
        ready=True,
        status=-signal.SIGKILL,
        error=GuestDied,
        summary="QEMU was killed by SIGKILL while it was tested",
        seen="QEMU was killed by SIGKILL",
        excerpt=(
            "UDP hash table entries: 256 (order: 0, 4096 bytes, linear)",
            "Run /init as init process",
        ),
    ),
    Row(
        console="malta_ready",
        ready=False,
        status=-signal.SIGSEGV,
        error=GuestDied,
        summary="QEMU was killed by SIGSEGV while booting, after init",
        seen="QEMU was killed by SIGSEGV",
        excerpt=(
            "UDP hash table entries: 256 (order: 0, 4096 bytes, linear)",
            "Run /init as init process",
        ),
    ),
]


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.console}-{'ready' if row.ready else 'boot'}-{row.status}"
)
def test_consoles_and_their_verdicts(row: Row, tmp_path: Path) -> None:
    error = diagnose(
        symptoms(tmp_path, ready=row.ready, text=console(row.console), status=row.status)
    )
    assert type(error) is row.error
    assert error.summary == f"malta-6.12: {row.summary}"
    assert error.evidence.seen == row.seen
    lines = error.evidence.excerpt.splitlines()
    assert lines[0].endswith(row.excerpt[0])
    assert lines[-1].endswith(row.excerpt[1])
    assert error.evidence.where == (str(tmp_path / "console.log"), str(tmp_path / "qemu.log"))
    assert error.evidence.next_step == "to boot it by hand: kernelvm boot malta-6.12"


def test_qemu_that_never_started_is_quoted(tmp_path: Path) -> None:
    error = diagnose(symptoms(tmp_path, ready=False, text="", status=1, qemu_said=CPU_WORDS))
    assert type(error) is LaunchFailed
    assert error.verdict is Verdict.LAUNCH_FAILED
    assert error.summary == "malta-6.12: QEMU ended with status 1"
    assert error.evidence.excerpt == CPU_WORDS.rstrip("\n")
    assert error.evidence.command == "qemu-system-mips -M malta"
    assert error.evidence.where == (str(tmp_path / "qemu.log"),)


def test_qemu_that_ended_well_without_a_word_did_start(tmp_path: Path) -> None:
    error = diagnose(symptoms(tmp_path, ready=False, text="", status=0))
    assert type(error) is GuestDied
    assert error.summary == (
        "malta-6.12: QEMU ended with status 0 while booting, after nothing yet"
    )


def test_what_qemu_said_at_its_end_is_seen(tmp_path: Path) -> None:
    said = "qemu: fatal: Trying to execute code outside RAM or ROM at 0x00000000\n"
    error = diagnose(
        symptoms(
            tmp_path,
            ready=True,
            text=console("malta_ready"),
            status=-signal.SIGABRT,
            qemu_said=said,
        )
    )
    assert type(error) is GuestDied
    assert error.evidence.seen == f"QEMU was killed by SIGABRT; {said.rstrip()}"


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_console_of_a_running_qemu(text: str, tmp_path: Path) -> None:
    error = diagnose(symptoms(tmp_path, ready=False, text=text))
    assert type(error) is NoOutput
    assert error.summary == "malta-6.12: nothing on the console within 60 s"
    assert error.evidence.command == "qemu-system-mips -M malta"
    assert "endianness" in error.evidence.next_step


def test_an_empty_console_of_a_guest_that_was_ready_is_a_hang(tmp_path: Path) -> None:
    """As with `quiet`: the agent has its own channel."""
    assert type(diagnose(symptoms(tmp_path, ready=True, text=""))) is GuestHang


def test_oddities_are_told(tmp_path: Path) -> None:
    error = diagnose(
        symptoms(tmp_path, ready=True, text=console("malta_ready"), oddities="3 late replies")
    )
    assert error.evidence.seen == "the guest runs and is silent; there came 3 late replies"


def test_a_guest_that_booted_anew(tmp_path: Path) -> None:
    error = diagnose(symptoms(tmp_path, ready=True, text=console("malta_ready"), began_anew=True))
    assert isinstance(error, GuestDied)
    assert error.summary.endswith("the guest booted anew")


def test_a_panic_wins_over_qemus_status(tmp_path: Path) -> None:
    """-no-reboot and panic=-1 make QEMU end with status 0 after each panic."""
    for status in (None, 0, 1, -signal.SIGKILL):
        error = diagnose(
            symptoms(tmp_path, ready=True, text=console("aarch64_sysrq_crash"), status=status)
        )
        assert type(error) is GuestPanic
