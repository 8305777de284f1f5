"""The command line cookie: with it the bootloader's line counts, without it the built-in one."""

import pytest

from pytest_kernelvm import BootVm, Cell, Vm


@pytest.mark.kernelvm(cmdline="said.by=bootloader")
def test_with_the_cookie_the_kernel_obeys_the_bootloader(vm: Vm, cell: Cell) -> None:
    assert cell.config.cookie.text in vm.cmdline
    assert "said.by=bootloader" in vm.cmdline
    assert "no cookie" not in vm.dmesg


@pytest.mark.kernelvm(cmdline="said.by=bootloader", cookie=False)
def test_without_the_cookie_only_the_builtin_line_counts(vm: Vm, cell: Cell) -> None:
    assert " ".join(vm.cmdline) == cell.kernel.config["CMDLINE"].strip('"')
    assert "said.by=bootloader" not in vm.cmdline
    assert "no cookie, ignoring" in vm.dmesg


def test_the_cookie_may_be_part_of_a_word(boot_vm: BootVm, cell: Cell) -> None:
    """The initramfs lies where both command lines say; on Malta only the built-in one does."""
    word = f"x{cell.config.cookie.text}y"
    fixed = cell.config.arch.fixed_initramfs
    where = f" {fixed.cmdline}" if fixed else ""
    vm = boot_vm(cookie=False, cmdline=word + where)
    assert word in vm.cmdline
    assert cell.config.cookie.text not in vm.cmdline


@pytest.mark.kernelvm(modules=["loop"], cmdline="loop.max_part=15", cookie=False)
def test_without_the_cookie_module_parameters_are_ignored_too(vm: Vm) -> None:
    vm.modprobe("loop")
    assert vm.read("/sys/module/loop/parameters/max_part").strip() == "0"
