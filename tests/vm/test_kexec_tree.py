"""A device tree reaches the second kernel in its registers, if the first one hands it over."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.errors import KernelvmError, Verdict
from pytest_kernelvm.session.cmdline import BUILTIN, TREE, assert_cmdline_from
from pytest_kernelvm.vm.bootpath.device_tree import set_property
from pytest_kernelvm.vm.bootpath.kexec import kexec_files
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.boot_variants import with_device_tree

pytestmark = [pytest.mark.slow, pytest.mark.spread("boot paths")]


@pytest.fixture(autouse=True)
def _has_first_stage(cell: Cell) -> None:
    if not cell.config.arch.first_stage:
        pytest.skip(f"{cell.config.arch.name} makes the tree in its kernel")
    pytest.importorskip("libfdt", reason="pip install pytest-kernelvm[device-tree]")


def tree_of(vm: Vm) -> bytes:
    """Return the guest's tree with what the second kernel is to be recognised by."""
    tree = set_property(vm.device_tree, "/", "model", "handed over")
    return set_property(tree, "/chosen", "bootargs", "said.by=tree")


def test_with_the_patch(cell: Cell, tmp_path: Path) -> None:
    second = with_device_tree(cell, hands_over=True)
    files = kexec_files(second.bootable(cookie=False).boot)
    with boot_guest(second.bootable(modules=(), files=files), tmp_path) as vm:
        vm.kexec(second, cookie=False, device_tree=tree_of(vm))
        assert vm.read("/proc/device-tree/model") == "handed over\0"
        assert_cmdline_from(vm, TREE, BUILTIN)


def test_without_the_patch(cell: Cell, tmp_path: Path) -> None:
    """The second kernel has no tree but its own, and no word of how much memory there is."""
    second = with_device_tree(cell, hands_over=True)
    first = with_device_tree(cell)
    files = kexec_files(second.bootable(cookie=False).boot)
    with (
        boot_guest(first.bootable(modules=(), files=files), tmp_path) as vm,
        pytest.raises(KernelvmError) as failed,
    ):
        vm.kexec(second, cookie=False, device_tree=tree_of(vm))
    assert "defaulting to 32MB" in (tmp_path / "console.log").read_text(errors="replace")
    assert failed.value.verdict is Verdict.PANIC
