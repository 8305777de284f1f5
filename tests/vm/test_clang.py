"""A small kernel that clang and lld made, with a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.session.smoke_tests import try_modules
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.small_kernel_symbols import LEAST
from tests.vm.test_out_of_tree import HELLO

SMALL = f"""\
arch: aarch64
kernel:
  version: "6.12"
  LLVM: true
  symbols:
    BLOCK: y
    BLK_DEV: y
    BLK_DEV_LOOP: m
    SERIAL_AMBA_PL011: y
    SERIAL_AMBA_PL011_CONSOLE: y
    ARM_PSCI_FW: y
    VIRTIO_MENU: y
    VIRTIO: y
    VIRTIO_MMIO: y
    VIRTIO_CONSOLE: y
    CC_IS_CLANG: y
    LD_IS_LLD: y
{LEAST}"""


@pytest.mark.vm
@pytest.mark.slow
def test_a_kernel_made_by_clang(kernelvm_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "clang.yaml"
    file.write_text(SMALL)
    (config,) = read_config(file)
    cell = Cell(config, kernelvm_store)
    try:
        kernel = cell.kernel
    except ToolMissing as missing:
        pytest.skip(missing.summary)
    assert kernel.llvm == "1"
    assert kernel.config["CC_IS_CLANG"] == "y"
    (tmp_path / "guest").mkdir()
    with boot_guest(cell.bootable(modules=["loop"]), tmp_path / "guest") as vm:
        assert "clang version" in vm.read("/proc/version")
        assert "LLD" in vm.read("/proc/version")
        vm.modprobe("loop")
        assert [module.name for module in vm.modules] == ["loop"]
        vm.power_off()
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "Kbuild").write_text("obj-m := hello.o\n")
    (tmp_path / "hello" / "hello.c").write_text(HELLO)
    (tmp_path / "trial").mkdir()
    assert "hello: 1" in try_modules(cell, tmp_path / "hello", tmp_path / "trial").log
