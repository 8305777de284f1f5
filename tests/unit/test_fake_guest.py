"""What becomes of guests that do one thing wrong: each has its verdict, in boot and in use."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.errors import (
    BootHang,
    GuestDied,
    GuestHang,
    GuestPanic,
    GuestSplat,
    HarnessError,
    KernelvmError,
    LaunchFailed,
    NoOutput,
)
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.fake_guest import (
    BOOT,
    OOPS,
    PANIC,
    RESET,
    WARNING,
    do,
    fake_bootable,
    fake_guest,
    logged,
    shown,
)
from tests.fake_guest import fake_qemu as fake_qemu

pytestmark = pytest.mark.usefixtures("fake_qemu")

# A guest that does not answer is not waited for any longer.
SHORT_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Row:
    """A guest and its verdict.

    acts: what it does. error: the verdict's class, None for none. summary: how its summary goes on.
    seen: what is in its evidence as seen.
    """

    name: str
    acts: tuple[str, ...]
    error: type[KernelvmError] | None
    summary: str = ""
    seen: str = ""


BOOTS = [
    Row(name="goes well", acts=BOOT, error=None),
    Row(
        name="never gets to the agent",
        acts=BOOT[:2],
        error=BootHang,
        summary="the agent did not answer within 0.5 s",
        seen="came as far as: init",
    ),
    Row(name="says nothing", acts=("wait 60",), error=NoOutput, summary="nothing on the console"),
    Row(
        name="panics",
        acts=(*BOOT[:1], *PANIC, *RESET),
        error=GuestPanic,
        summary="sysrq triggered crash",
        seen="while booting",
    ),
    Row(
        name="restarts without a word",
        acts=RESET,
        error=GuestDied,
        summary="the guest restarted itself while booting",
    ),
    Row(
        name="is a QEMU that refuses its flags",
        acts=("complain invalid option", "exit 1"),
        error=LaunchFailed,
        summary="QEMU ended with status 1",
    ),
    Row(
        name="is a QEMU that crashes",
        acts=(*BOOT[:1], f"kill {signal.SIGSEGV:d}"),
        error=GuestDied,
        summary="QEMU was killed by SIGSEGV while booting",
    ),
    Row(
        name="has an agent of another version",
        acts=("version 2", *BOOT),
        error=HarnessError,
        summary="the agent speaks version 2",
    ),
    Row(
        name="warns and goes on",
        acts=(*WARNING, *BOOT),
        error=GuestSplat,
        summary="WARNING: CPU: 0 PID: 44",
    ),
]

COMMANDS = [
    Row(name="nothing", acts=("log nothing",), error=None),
    Row(name="a splat", acts=WARNING, error=GuestSplat, summary="WARNING: CPU: 0 PID: 44"),
    Row(
        name="a splat that the console does not show",
        acts=logged(WARNING),
        error=GuestSplat,
        summary="WARNING: CPU: 0 PID: 44",
    ),
    Row(name="a splat that a program wrote to the console", acts=shown(WARNING), error=None),
    Row(name="an oops", acts=OOPS, error=GuestSplat, summary="Unable to handle kernel NULL"),
    Row(
        name="a panic",
        acts=(*PANIC, *RESET),
        error=GuestPanic,
        summary="sysrq triggered crash",
        seen="the kernel panicked while it was tested",
    ),
    Row(
        name="a panic behind an oops",
        acts=(*OOPS, *PANIC, *RESET),
        error=GuestPanic,
        summary="sysrq triggered crash, after: Unable to handle kernel NULL",
    ),
    Row(
        name="QEMU's end",
        acts=("exit 1",),
        error=GuestDied,
        summary="QEMU ended with status 1 while it was tested",
    ),
    Row(
        name="QEMU's death",
        acts=(f"kill {signal.SIGKILL:d}",),
        error=GuestDied,
        summary="QEMU was killed by SIGKILL while it was tested",
    ),
    Row(
        name="a QEMU that a signal stops",
        acts=(f"kill {signal.SIGSTOP:d}",),
        error=GuestHang,
        summary="a signal stopped QEMU",
        seen="state T",
    ),
    Row(
        name="a power-off",
        acts=("event SHUTDOWN guest-shutdown", "wait 0.05", "exit 0"),
        error=GuestDied,
        summary="the guest switched itself off while it was tested",
    ),
    Row(
        name="a restart",
        acts=RESET,
        error=GuestDied,
        summary="the guest restarted itself while it was tested",
    ),
    Row(
        name="a halt",
        acts=("console Reboot failed -- System halted", "mute"),
        error=GuestDied,
        summary="the machine halted and cannot end",
    ),
    Row(
        name="silence",
        acts=("mute",),
        error=GuestHang,
        summary="no answer within 0.5 s",
        seen="the guest runs and is silent",
    ),
    Row(
        name="silence behind an oops",
        acts=(*OOPS, "mute"),
        error=GuestSplat,
        summary="Unable to handle kernel NULL",
    ),
    Row(
        name="nonsense",
        acts=("nonsense",),
        error=GuestDied,
        summary="the agent answered nonsense",
        seen="bytes: ",
    ),
    Row(
        name="another boot",
        acts=("hello 99", "mute"),
        error=GuestDied,
        summary="the guest booted anew",
        seen="the hello of another boot's agent",
    ),
    Row(
        name="a log gap",
        acts=("lose 3", "log and on"),
        error=GuestSplat,
        summary="3 records of the kernel's log were lost",
    ),
    Row(
        name="a log that cannot be read any more",
        acts=("unreadable 5",),
        error=GuestSplat,
        summary="the kernel's log cannot be read any more: Input/output error",
    ),
    Row(
        name="a taint that nothing explains",
        acts=("taint 512",),
        error=GuestSplat,
        summary="tainted, and no log line explains it: W",
    ),
]


def ids(row: Row) -> str:
    return row.name


def check(row: Row, error: KernelvmError | None) -> None:
    if row.error is None:
        assert error is None
        return
    assert type(error) is row.error
    assert row.summary in error.summary
    assert row.seen in error.evidence.seen


@pytest.mark.parametrize("row", BOOTS, ids=ids)
def test_verdicts_on_boots(row: Row, tmp_path: Path) -> None:
    limit_s = SHORT_S if row.error in (BootHang, NoOutput) else 10.0
    seen: list[int] = []
    error = None
    try:
        with boot_guest(
            fake_bootable(tmp_path, *row.acts, boot_s=limit_s),
            tmp_path,
            lambda vm: seen.append(vm.pid),
        ) as vm:
            vm.control.answer_for(boot=True)
            error = vm.control.conclude("the boot", ask=True)
    except KernelvmError as raised:
        error = raised
    check(row, error)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


@pytest.mark.parametrize("row", COMMANDS, ids=ids)
def test_verdicts_on_commands(row: Row, tmp_path: Path) -> None:
    limit_s = SHORT_S if "mute" in row.acts else 10.0
    with fake_guest(tmp_path, command_s=limit_s) as vm:
        error = None
        try:
            # So much of the log was read before.
            assert vm.read("/proc/version")
            do(vm, *row.acts)
            error = vm.control.conclude("the test", ask=True)
        except KernelvmError as raised:
            error = raised
        check(row, error)
        # Nothing is reported twice.
        assert vm.control.conclude("the test", ask=not error) is None


@pytest.mark.slow
def test_a_damaged_hello_is_asked_for_again(tmp_path: Path) -> None:
    with fake_guest(tmp_path, "damage", *BOOT) as vm:
        vm.ping()


@pytest.mark.parametrize("acts", [WARNING, logged(WARNING), OOPS], ids=["seen", "unseen", "oops"])
def test_allowed_splats_fail_nothing(acts: tuple[str, ...], tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        with vm.allow_splats("WARNING", "NULL pointer", reason="provoked") as allowed:
            do(vm, *acts)
        assert len(allowed.splats) == 1
        assert vm.splats == tuple(allowed.splats)
        assert vm.control.conclude("the test", ask=True) is None


def test_splats_behind_the_block_that_allows_them_count(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        with vm.allow_splats("WARNING", reason="provoked"):
            do(vm, *WARNING)
        with pytest.raises(GuestSplat):
            do(vm, *WARNING)


def test_splats_that_refuse_nothing_are_told_at_the_end(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        vm.control.answer_for(refuse=False)
        do(vm, *WARNING)
        assert vm.control.take_raised() == ()
        error = vm.control.conclude("the test", ask=True)
        assert type(error) is GuestSplat


@pytest.mark.parametrize(
    ("acts", "verdict"),
    [
        (shown(WARNING), type(None)),
        (PANIC, type(None)),
        (WARNING, GuestSplat),
        ((*PANIC, "mute"), GuestPanic),
    ],
)
def test_splats_behind_the_last_command(
    acts: tuple[str, ...], verdict: type, tmp_path: Path
) -> None:
    """What the console shows while nothing is asked is the kernel's if the log says so."""
    with fake_guest(tmp_path) as vm:
        do(vm, *(f"later {0.1 + 0.02 * number} {act}" for number, act in enumerate(acts)))
        time.sleep(0.4)
        assert type(vm.control.conclude("the test", ask=True)) is verdict


def test_verdicts_that_were_raised_are_known(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        with pytest.raises(GuestSplat) as raised:
            do(vm, *WARNING)
        assert vm.control.take_raised() == (raised.value,)
        assert vm.control.take_raised() == ()


def test_a_console_that_says_more_than_is_kept(tmp_path: Path) -> None:
    bootable = fake_bootable(tmp_path)
    with boot_guest(bootable, tmp_path, console_limit_bytes=4096) as vm:
        with pytest.raises(GuestHang, match="the console was flooded") as flooded:
            do(vm, *["console more and more"] * 200, "mute")
        assert "kernelvm_console_limit" in flooded.value.evidence.next_step
