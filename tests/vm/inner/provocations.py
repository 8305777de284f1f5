"""Guests that misbehave without a word: every test here must fail, or end with an error."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from pytest_kernelvm import BootVm, Cell, LinkedVms, Vm
from pytest_kernelvm.errors import KernelvmError
from tests.vm.inner.provoker import LATER_S, do, do_unseen, provoking, quiet


@pytest.fixture
def vm(new_vm: BootVm, cell: Cell) -> Vm:
    return provoking(new_vm, cell)


# What is said, and where

SAID = {
    "BUG": "BUG: provoked",
    "sysfs": "sysfs: cannot create duplicate filename '/kernel/mine'",
    "unregister": "unregister_netdevice: waiting for lo to become free. Usage count = 2",
    "preempt": "note: insmod[61] exited with preempt_count 1",
    "irqs": "note: insmod[61] exited with irqs disabled",
    "iowait": "INFO: task mount:61 blocked in I/O wait for more than 120 seconds.",
    "rcu": "rcu: INFO: rcu_sched self-detected stall on CPU",
    "condition": "WARNING: [n > 3] drivers/misc/mine.c:17 at mine_init+0x20/0x40 [mine], "
    "CPU#0: insmod/61",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_said_unseen(vm: Vm, said: str) -> None:
    quiet(vm)
    do(vm, f"say {said}")


def test_said_below_the_level_of_the_console(vm: Vm) -> None:
    quiet(vm)
    do(vm, "info kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)")


def test_a_warning_unseen(vm: Vm) -> None:
    quiet(vm)
    do(vm, "warn")


def test_a_warning_while_the_level_was_low(vm: Vm) -> None:
    level = vm.read("/proc/sys/kernel/printk").split()[0]
    do_unseen(vm, "warn")
    vm.write("/proc/sys/kernel/printk", level)


@pytest.mark.parametrize("show", [True, False], ids=["seen", "unseen"])
def test_a_bare_stack(vm: Vm, show: bool) -> None:
    if not show:
        quiet(vm)
    do(vm, "dump")


def test_a_name_twice_in_sysfs(vm: Vm) -> None:
    do(vm, "sysfs")


@pytest.mark.parametrize("bit", [2, 4, 5, 6, 7, 9, 14])
def test_a_taint_without_text(vm: Vm, bit: int) -> None:
    do(vm, f"taint {bit}")


def test_a_taint_by_a_program(vm: Vm) -> None:
    vm.write("/proc/sys/kernel/tainted", "512")


def test_a_last_record_without_its_end(vm: Vm) -> None:
    do(vm, "unfinished")


@pytest.mark.parametrize("before", ["login: ", "/ # ", "\x1b[31m", "\x1b[2K\r"])
def test_behind_what_a_program_left(vm: Vm, before: str) -> None:
    vm.write("/dev/console", before)
    do(vm, "bug")


@pytest.mark.kernelvm(cmdline="quiet")
def test_a_quiet_kernel(vm: Vm) -> None:
    do(vm, "warn")


@pytest.mark.kernelvm(cmdline="loglevel=1")
def test_a_kernel_of_low_level(vm: Vm) -> None:
    do(vm, "later warn")
    time.sleep(LATER_S)


@pytest.mark.kernelvm(cmdline="printk.time=0")
def test_a_kernel_without_times(vm: Vm) -> None:
    vm.write("/dev/console", "login: ")
    do(vm, "bug")


@pytest.mark.kernelvm(shared_console=True)
def test_a_shared_console(vm: Vm) -> None:
    quiet(vm)
    do(vm, "warn")


@pytest.mark.kernelvm(fresh="boot")
def test_a_booted_guest(vm: Vm) -> None:
    quiet(vm)
    do(vm, "warn")


@pytest.mark.kernelvm(fresh="share", clean=True)
def test_a_shared_guest(vm: Vm) -> None:
    do_unseen(vm, "warn")


def test_a_flood_that_the_log_cannot_hold(vm: Vm) -> None:
    quiet(vm)
    do(vm, "flood")


def test_a_log_that_was_cleared(vm: Vm) -> None:
    do_unseen(vm, "warn")
    vm.syscall("syslog", 5, 0, 0)


def test_a_log_that_cannot_be_read_any_more(vm: Vm) -> None:
    for descriptor in vm.list("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if vm.syscall("readlinkat", -100, f"/proc/self/fd/{descriptor}", bytes(64), 64) == 9:
                vm.syscall("close", int(descriptor))


def test_the_second_guest(new_vm: BootVm, cell: Cell) -> None:
    new_vm().ping()
    do_unseen(provoking(new_vm, cell), "warn")


def test_a_guest_behind_a_cable(vms: LinkedVms) -> None:
    _one, other = vms("a", "b")
    other.write("/proc/sys/kernel/printk", "1")
    other.write("/proc/sys/kernel/tainted", "512")


# Guests that give no answer


def test_it_spins(vm: Vm) -> None:
    do(vm, "later spin")
    time.sleep(LATER_S)


def test_it_switched_itself_off(vm: Vm) -> None:
    do(vm, "later off")
    time.sleep(LATER_S)


def test_it_restarted_itself(vm: Vm) -> None:
    do(vm, "later restart")
    time.sleep(LATER_S)


def test_somebody_killed_it(vm: Vm) -> None:
    os.kill(vm.pid, signal.SIGKILL)


def test_somebody_stopped_it(vm: Vm) -> None:
    os.kill(vm.pid, signal.SIGSTOP)


def test_it_panics_behind_the_last_command(vm: Vm) -> None:
    do_unseen(vm, "panic")


def test_it_is_held_with_a_warning(vm: Vm) -> None:
    do_unseen(vm, "warn")
    vm.qmp.execute("stop")


# What a test's own code swallows


def test_except_exception(vm: Vm) -> None:
    try:  # noqa: SIM105
        do(vm, "warn")
    except Exception:
        pass


def test_except_all_of_ours(vm: Vm) -> None:
    try:  # noqa: SIM105
        do(vm, "warn")
    except KernelvmError:
        pass


def test_except_among_others(vm: Vm) -> None:
    try:  # noqa: SIM105
        do(vm, "warn")
    except (ValueError, Exception):
        pass


def test_raises_exception(vm: Vm) -> None:
    with pytest.raises(Exception):  # noqa: B017
        do(vm, "warn")


def test_raises_base_exception(vm: Vm) -> None:
    with pytest.raises(BaseException, match="provoker"):
        do(vm, "warn")


def test_suppressed(vm: Vm) -> None:
    with contextlib.suppress(Exception):
        do(vm, "warn")


def test_tried_again(vm: Vm) -> None:
    for _attempt in range(3):
        try:
            do(vm, "warn")
            break
        except Exception:
            continue


def test_tried_again_with_another_guest(new_vm: BootVm, cell: Cell) -> None:
    for what in ("panic", "say all is well"):
        try:
            do(provoking(new_vm, cell), what)
            break
        except Exception:
            continue


def test_a_boot_that_was_tried_again(boot_vm: BootVm) -> None:
    for cmdline in ("rdinit=/nowhere init=/nowhere", ""):
        try:
            boot_vm(cmdline=cmdline)
            break
        except Exception:
            continue


def test_a_panic_swallowed(vm: Vm) -> None:
    with contextlib.suppress(Exception):
        do(vm, "panic")


def test_a_hang_swallowed(vm: Vm) -> None:
    with contextlib.suppress(Exception):
        vm.run("/poke", "spin", timeout_s=1.0)


@pytest.fixture
def careless(vm: Vm) -> Vm:
    with contextlib.suppress(Exception):
        do(vm, "warn")
    return vm


def test_swallowed_in_a_fixture(careless: Vm) -> None:
    careless.ping()


# Guests that end before they are asked


def test_power_off(vm: Vm) -> None:
    do_unseen(vm, "warn")
    vm.power_off()


def test_reboot(vm: Vm) -> None:
    do_unseen(vm, "warn")
    vm.reboot()


def test_kill(vm: Vm) -> None:
    do_unseen(vm, "warn")
    vm.kill()


def test_quit(vm: Vm) -> None:
    do_unseen(vm, "warn")
    vm.qmp.execute("quit")


def test_left_with_its_block(vm: Vm) -> None:
    with vm:
        do_unseen(vm, "warn")


# Before a skip, in a teardown


@pytest.mark.parametrize("show", [True, False], ids=["seen", "unseen"])
def test_skipped(vm: Vm, show: bool) -> None:
    if show:
        do(vm, "later warn")
        time.sleep(LATER_S)
    else:
        do_unseen(vm, "warn")
    pytest.skip("for no reason")


def test_expected_to_fail(vm: Vm) -> None:
    do_unseen(vm, "warn")
    pytest.xfail("for no reason")


@pytest.fixture
def skipping(vm: Vm) -> Vm:
    do_unseen(vm, "warn")
    pytest.skip("in a fixture")


@pytest.mark.usefixtures("skipping")
def test_skipped_in_a_fixture() -> None:
    raise AssertionError("it was skipped")


@pytest.fixture
def warning_late(vm: Vm) -> Iterator[None]:
    yield
    do_unseen(vm, "warn")


@pytest.mark.usefixtures("warning_late")
def test_a_teardown_warns() -> None:
    pass


@pytest.fixture
def spinning_late(vm: Vm) -> Iterator[None]:
    yield
    do(vm, "later spin")
    time.sleep(LATER_S)


@pytest.mark.usefixtures("spinning_late")
def test_a_teardown_hangs() -> None:
    pass


# What is allowed, and what is not


def test_another_one_behind_what_is_allowed(vm: Vm) -> None:
    with vm.allow_splats("BUG: provoked", reason="provoked"):
        do(vm, "bug")
    do(vm, "warn")


def test_another_one_with_what_is_allowed(vm: Vm) -> None:
    with vm.allow_splats("BUG: provoked", reason="provoked"):
        do(vm, "bug")
        do(vm, "warn")


def test_a_warning_behind_an_oops_that_is_allowed(vm: Vm) -> None:
    with vm.allow_splats("Unable to handle|Internal error|Oops", reason="provoked"):
        vm.run("/poke", "oops")
    do(vm, "warn")


def test_a_warning_before_what_is_allowed(vm: Vm) -> None:
    do_unseen(vm, "warn")
    with vm.allow_splats("WARNING", reason="provoked"):
        do(vm, "warn")


def test_a_taint_beside_what_is_allowed(vm: Vm) -> None:
    with vm.allow_splats("WARNING", reason="provoked"):
        do(vm, "warn")
    do(vm, "taint 5")


def test_told_and_told_again(vm: Vm) -> None:
    with contextlib.suppress(Exception):
        do(vm, "warn")
    do_unseen(vm, "bug")
