"""Guests that behave, and tests that say what they provoke: every test here must pass."""

from __future__ import annotations

import time

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.errors import GuestPanic, GuestSplat, KernelvmError, Verdict
from tests.vm.inner.provoker import LATER_S, do, provoking, quiet

# Shows a splat's words on the console while it runs.
QUOTES = """
int main(void)
{
	static const char words[] = "[    1.000000] BUG: quoted by a program\\n";
	int file = open("/dev/console", O_WRONLY);

	write(file, words, sizeof(words) - 1);
	sleep(2);
	return 3;
}
"""


@pytest.fixture
def vm(new_vm: BootVm, cell: Cell) -> Vm:
    return provoking(new_vm, cell)


def test_nothing_is_wrong(vm: Vm) -> None:
    assert vm.splats == ()


QUOTED = {
    "stamped": "[    5.400000] BUG: quoted by a program\n",
    "bare": "BUG: kernel NULL pointer dereference, address: 0\n",
    "panic": "[    5.400000] Kernel panic - not syncing: quoted\n",
    "test": "ok 1 - BUG: handling\n",
}


@pytest.mark.parametrize("quoted", QUOTED.values(), ids=QUOTED)
def test_a_program_quotes_a_splat(vm: Vm, quoted: str) -> None:
    vm.write("/dev/console", quoted)
    assert vm.read("/proc/version")


def test_a_program_quotes_a_splat_and_goes_on(vm: Vm, cell: Cell) -> None:
    vm.write("/quotes", cell.compile_program(QUOTES))
    vm.syscall("fchmodat", -100, "/quotes", 0o755)
    assert vm.run("/quotes").status == 3


def test_a_program_writes_into_the_log(vm: Vm) -> None:
    vm.write("/dev/kmsg", "<2>BUG: a program's own words\n")
    assert "a program's own words" in vm.dmesg


SAID = ("usb: BUG in a name", "ok 7 - WARNING: none", "mine: debug: BUG_ON enabled")


@pytest.mark.parametrize("said", SAID)
def test_the_kernel_says_something_like_it(vm: Vm, said: str) -> None:
    do(vm, f"say {said}")


def test_a_named_splat(vm: Vm) -> None:
    with pytest.raises(GuestSplat):
        do(vm, "warn")
    assert vm.read("/proc/version")


def test_a_named_panic(vm: Vm) -> None:
    with pytest.raises(GuestPanic, match="provoked"):
        do(vm, "panic")


def test_a_verdict_that_is_looked_at(vm: Vm) -> None:
    with pytest.raises(KernelvmError) as raised:
        do(vm, "warn")
    assert raised.value.verdict is Verdict.SPLAT


def test_an_except_that_names_it(vm: Vm) -> None:
    try:  # noqa: SIM105
        do(vm, "warn")
    except GuestSplat:
        pass


@pytest.mark.parametrize("show", [True, False], ids=["seen", "unseen"])
def test_an_allowed_one(vm: Vm, show: bool) -> None:
    if not show:
        quiet(vm)
    with vm.allow_splats("WARNING", reason="provoked") as allowed:
        do(vm, "warn")
    assert [splat.kind for splat in allowed.splats] == ["WARNING"]


def test_an_allowed_oops_and_what_comes_of_it(vm: Vm) -> None:
    with vm.allow_splats("Unable to handle|Internal error|Oops", reason="provoked"):
        vm.run("/poke", "oops")
    time.sleep(LATER_S)


@pytest.mark.kernelvm_splats(allow="tainted, and no log line explains it", reason="provoked")
def test_a_taint_that_the_marker_allows(vm: Vm) -> None:
    do(vm, "taint 9")


def test_a_taint_that_is_allowed(vm: Vm) -> None:
    with vm.allow_splats("tainted", reason="provoked"):
        do(vm, "taint 9")


def test_a_flood_that_the_console_shows(vm: Vm) -> None:
    vm.write("/proc/sys/kernel/printk", "8")
    do(vm, "flood")


def test_power_off(vm: Vm) -> None:
    vm.power_off()


def test_reboot(vm: Vm) -> None:
    vm.reboot()


def test_kill(vm: Vm) -> None:
    vm.kill()


def test_quit(vm: Vm) -> None:
    vm.qmp.execute("quit")


def test_left_with_its_block(vm: Vm) -> None:
    with vm:
        vm.ping()


def test_an_end_that_is_waited_for(vm: Vm) -> None:
    do(vm, "later off")
    assert vm.wait_end(20) == 0


def test_held_and_let_go(vm: Vm) -> None:
    vm.qmp.execute("stop")
    vm.qmp.execute("cont")


def test_left_held(vm: Vm) -> None:
    vm.qmp.execute("stop")


def test_nothing_mounted_any_more(vm: Vm) -> None:
    for where in ("/proc", "/sys"):
        vm.syscall("umount2", where, 2)


def test_the_log_is_read_by_the_test(vm: Vm) -> None:
    assert "Linux version" in vm.dmesg
    assert vm.read("/proc/sys/kernel/tainted")


def test_skipped(vm: Vm) -> None:
    vm.ping()
    pytest.skip("all is well")
