"""The verdict on a guest that does not answer, from its console, QEMU's status and words."""

from __future__ import annotations

import dataclasses
import errno
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.errors import (
    BootHang,
    GuestDied,
    GuestHang,
    GuestPanic,
    GuestSplat,
    KernelvmError,
    LaunchFailed,
    NoOutput,
    Verdict,
)
from pytest_kernelvm.vm.klog.splats import read_splats
from pytest_kernelvm.vm.verdict.diagnosis import diagnose, launch_failed
from pytest_kernelvm.vm.verdict.symptoms import Arrival, Symptoms
from pytest_kernelvm.vm.verdict.watch import Trouble
from tests.unit.test_transcript import CONSOLES, console

CPU_WORDS = "qemu-system-mips: unable to find CPU model 'no-such-cpu'\n"


def symptoms(
    directory: Path,
    *,
    ready: bool,
    text: str,
    status: int | None = None,
    qemu_said: str = "",
    **known: Any,
) -> Symptoms:
    qemu_log = directory / "qemu.log"
    qemu_log.write_text(qemu_said)
    found = Symptoms(
        label="malta-6.12",
        ready=ready,
        console=text,
        console_log=directory / "console.log",
        qemu_log=qemu_log,
        trouble=None if status is None else Trouble.ENDED,
        splats=read_splats(text),
        refused=read_splats(text),
        arrived=None,
        status=status,
        shutdown="",
        paused=False,
        waited_s=60.0,
        description="61.2 s; limit: 60 s",
        for_what="read /proc/version",
        cpu="",
        kernel_log="",
        oddities="",
        began_anew=False,
        log_trouble="",
        console_limit_bytes=48 << 20,
        boot_command="kernelvm boot malta-6.12",
        argv="qemu-system-mips -M malta",
    )
    return dataclasses.replace(found, **known)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A console and what is made of it.

    excerpt: how one of its first lines and its last line end.
    """

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
        summary=(
            "Fatal exception, after: CPU 0 Unable to handle kernel paging request at virtual "
            "address 00000000, epc == c0b0a01c, ra == 80100b64"
        ),
        seen="the kernel panicked while it was tested",
        excerpt=("Run /init as init process", "not syncing: Fatal exception"),
    ),
    Row(
        console="malta_early_hang",
        ready=False,
        error=BootHang,
        summary="the agent did not answer within 60 s",
        seen="the guest came as far as: the early console; only its early console spoke",
        excerpt=("GNU Binutils for Debian) 2.40) #1 @0", "OF: reserved m"),
    ),
    Row(
        console="aarch64_console_hang",
        ready=False,
        error=BootHang,
        summary="the agent did not answer within 60 s",
        seen="the guest came as far as: initcalls",
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
        summary="no answer within 60 s, after: Kernel bug detected[#1]:",
        seen="the guest runs and is silent",
        excerpt=("initmem) memory: 172K", "[ end trace 0000000000000000 ]---"),
    ),
    Row(
        console="aarch64_warning",
        ready=True,
        error=GuestHang,
        summary=(
            "no answer within 60 s, after: WARNING: CPU: 0 PID: 44 at "
            "net/netfilter/nf_conntrack_core.c:2689 "
            "nf_conntrack_cleanup_net_list+0x158/0x164 [nf_conntrack]"
        ),
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
        summary="QEMU ended with status 0 while booting, after the early console",
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
    assert any(line.endswith(row.excerpt[0]) for line in lines[:4])
    assert lines[-1].endswith(row.excerpt[1])
    assert error.evidence.where == (str(tmp_path / "console.log"), str(tmp_path / "qemu.log"))
    assert error.evidence.next_step.endswith("to boot it by hand: kernelvm boot malta-6.12")


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
    assert f"QEMU's words: {said.rstrip()}" in error.evidence.facts


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


def test_oddities_of_frames_are_told(tmp_path: Path) -> None:
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


# What is known besides the console


def test_what_a_guest_says_again_and_again_is_one_event(tmp_path: Path) -> None:
    once = console("lkdtm_aarch64_hung_task")
    for text, seen in (
        (once + once.replace("more than 1 seconds", "more than 2 seconds"), "hung task while"),
        (once + once.replace("task provoke:32", "task other:33"), "hung task and 1 more while"),
        (once + console("splat_atomic"), "hung task and 1 more while"),
    ):
        error = diagnose(symptoms(tmp_path, ready=True, text=text, trouble=Trouble.SPLAT))
        assert error.evidence.seen == f"{seen} it was tested"


def test_a_splat_that_ended_a_wait_names_itself_and_what_was_asked(tmp_path: Path) -> None:
    error = diagnose(
        symptoms(
            tmp_path,
            ready=True,
            text=console("lkdtm_aarch64_hung_task"),
            trouble=Trouble.SPLAT,
            arrived=Arrival(at_s=0.0, after_s=2.5),
        )
    )
    assert type(error) is GuestSplat
    assert error.verdict is Verdict.SPLAT
    assert error.summary == "malta-6.12: INFO: task provoke:32 blocked for more than 1 seconds."
    assert error.evidence.seen == "hung task while it was tested"
    assert "nothing wrong in the kernel's log" in error.evidence.expected
    assert error.evidence.facts[0] == "reached: ready"
    assert error.evidence.facts[1].startswith("time: guest 4.066090 s; host ")
    assert error.evidence.facts[1].endswith(", 2.50 s after the start")
    assert "allow_splats" in error.evidence.next_step
    assert error.evidence.excerpt.splitlines()[-1].endswith("el0t_64_sync+0x14c/0x150")


def test_of_several_splats_the_first_refused_one_is_reported(tmp_path: Path) -> None:
    text = console("aarch64_warning") + console("splat_atomic") + console("splat_rss")
    found = read_splats(text)
    error = diagnose(
        symptoms(
            tmp_path,
            ready=True,
            text=text,
            trouble=Trouble.SPLAT,
            splats=found,
            refused=found[1:],
        )
    )
    assert "BUG: scheduling while atomic" in error.summary
    assert error.evidence.seen == "atomic context and 1 more while it was tested"


def test_an_allowed_splat_does_not_excuse_a_hang(tmp_path: Path) -> None:
    text = console("aarch64_warning")
    error = diagnose(symptoms(tmp_path, ready=True, text=text, refused=()))
    assert type(error) is GuestHang
    assert error.summary == "malta-6.12: no answer within 60 s"


@pytest.mark.parametrize(("ready", "kind"), [(True, GuestHang), (False, BootHang)])
def test_a_stopped_qemu_is_no_silent_guest(
    ready: bool, kind: type[KernelvmError], tmp_path: Path
) -> None:
    error = diagnose(
        symptoms(tmp_path, ready=ready, text=console("malta_ready"), trouble=Trouble.STOPPED)
    )
    assert type(error) is kind
    assert "a signal stopped QEMU" in error.summary
    assert not [fact for fact in error.evidence.facts if fact.startswith("waited")]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("guest-shutdown", "the guest switched itself off"),
        ("guest-reset", "the guest restarted itself"),
        ("host-signal", "a signal to QEMU"),
        ("never-heard-of", "never-heard-of"),
        ("", "QEMU ended with status 0"),
    ],
)
def test_why_qemu_ended(reason: str, words: str, tmp_path: Path) -> None:
    error = diagnose(
        symptoms(tmp_path, ready=True, text=console("malta_ready"), status=0, shutdown=reason)
    )
    assert type(error) is GuestDied
    assert error.summary == f"malta-6.12: {words} while it was tested"
    cause = f", SHUTDOWN {reason}" if reason else ""
    assert f"QEMU: ended with status 0{cause}" in error.evidence.facts


def test_a_silent_kernel_that_logged_is_distinguished_from_one_that_never_ran(
    tmp_path: Path,
) -> None:
    ran = diagnose(
        symptoms(tmp_path, ready=False, text="", kernel_log="Linux version 6.12\nRun /init\n")
    )
    never = diagnose(symptoms(tmp_path, ready=False, text=""))
    assert type(ran) is type(never) is NoOutput
    assert ran.evidence.excerpt == "Linux version 6.12\nRun /init"
    assert "console=" in ran.evidence.next_step
    assert "endianness" in never.evidence.next_step
    assert ran.evidence.seen != never.evidence.seen


def test_the_limit_and_what_did_not_count_are_told(tmp_path: Path) -> None:
    description = "74.4 s, 57.3 s of which QEMU got no processor and do not count; limit: 12 s"
    error = diagnose(
        symptoms(
            tmp_path,
            ready=True,
            text=console("malta_ready"),
            description=description,
            waited_s=12.0,
            cpu="sleeps (QEMU ran 0.1 s of 17.1 s that it could), at r4k_wait+0x20",
        )
    )
    assert error.summary == "malta-6.12: no answer within 12 s"
    assert f"waited: {description}" in error.evidence.facts
    assert "CPU: sleeps (QEMU ran 0.1 s of 17.1 s that it could), at r4k_wait+0x20" in str(error)


def test_a_paused_guest(tmp_path: Path) -> None:
    error = diagnose(symptoms(tmp_path, ready=True, text=console("malta_ready"), paused=True))
    assert error.evidence.seen == "QMP's stop holds the guest"


def test_a_log_that_is_incomplete_is_said_to_be(tmp_path: Path) -> None:
    error = diagnose(
        symptoms(
            tmp_path, ready=True, text=console("malta_ready"), log_trouble="No space left on device"
        )
    )
    log = f"{tmp_path / 'console.log'} (incomplete: No space left on device)"
    assert error.evidence.where[0] == log


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("Initramfs unpacking failed: invalid magic at start of compressed archive", "damaged"),
        ("Kernel panic - not syncing: System is deadlocked on memory", "more memory"),
        ("Kernel panic - not syncing: No working init found.", "no such program"),
        ("Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b", "SIGSEGV"),
    ],
)
def test_lines_of_a_console_and_their_hints(line: str, hint: str, tmp_path: Path) -> None:
    error = diagnose(symptoms(tmp_path, ready=False, text=f"[    1.0] {line}\n", status=0))
    assert hint in error.evidence.next_step


def test_every_error_fits_a_screen(tmp_path: Path) -> None:
    for path in sorted(CONSOLES.glob("*.txt")):
        error = diagnose(symptoms(tmp_path, ready=True, text=path.read_text()))
        assert len(str(error).splitlines()) <= 72, path.stem


def test_what_the_host_refuses_is_a_failed_launch() -> None:
    error = launch_failed("malta-6.12", OSError(errno.EMFILE, "Too many open files"), "qemu x")
    assert type(error) is LaunchFailed
    assert error.summary == "malta-6.12: QEMU was not started: Too many open files"
    assert "ulimit -n" in error.evidence.next_step
    other = launch_failed("malta-6.12", OSError(errno.ENOSPC, "No space left on device"), "qemu x")
    assert "ulimit" not in other.evidence.next_step
