"""Those of the forty cases of modules that only a kernel can show; tests/unit has all of them.

More of them: options, blacklists and files of other kernels in test_modprobe.py, files that vanish
and modules in use in test_module_life.py, loops and commands in test_userlands.py, firmware in
test_firmware.py, signatures in test_prebuilt.py.
"""

import lzma
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.process import run
from tests.vm.external import EXTERNAL

pytestmark = [pytest.mark.slow, pytest.mark.every_cell]


def names(vm: Vm) -> set[str]:
    return {module.name for module in vm.modules}


@pytest.mark.kernelvm(
    external=EXTERNAL,
    modules=["failing", "held"],
    files={
        "/etc/modprobe.d/both.conf": b"alias first failing\nalias first held\n"
        b"alias last held\nalias last failing\n"
    },
)
class TestAliasOfSeveral:
    """Case 17: some of them refuse; modprobe's status is that of the last (tools/modprobe.c)."""

    def test_that_refuses_first(self, vm: Vm) -> None:
        tried = vm.run("modprobe", "first")
        assert (tried.status, names(vm)) == (0, {"held"})
        assert "could not insert 'failing': No such device" in tried.errors

    def test_that_refuses_last(self, vm: Vm) -> None:
        tried = vm.run("modprobe", "last")
        assert (tried.status, names(vm)) == (1, {"held"})
        assert "could not insert 'failing': No such device" in tried.errors


def test_compressed_module_is_refused_with_a_message(new_vm: BootVm, cell: Cell) -> None:
    """Case 34: where the kernel has no MODULE_DECOMPRESS (kernel/module/main.c)."""
    if cell.kernel.config.get("MODULE_DECOMPRESS") == "y":
        pytest.skip("this kernel unpacks modules")
    content = cell.closure(["dummy"]).files[0].read_bytes()
    packed = lzma.compress(content, check=lzma.CHECK_CRC32)
    vm = new_vm(modules=["loop"], files={"/dummy.ko.xz": packed})
    refused = vm.fail("insmod", "/dummy.ko.xz")
    assert "could not insert module /dummy.ko.xz: Operation not supported" in refused.errors
    assert names(vm) == set()


def test_stripped_module(new_vm: BootVm, cell: Cell, tmp_path: Path) -> None:
    """Case 37: without debugging it loads, without symbols not (kernel/module/main.c)."""
    content = cell.closure(["dummy"]).files[0]
    strip = f"{cell.config.arch.toolchain_prefix}strip"
    for how in ("debug", "all"):
        run([strip, f"--strip-{how}", "-o", tmp_path / f"{how}.ko", content], timeout_s=60)
    files = {f"/{how}.ko": (tmp_path / f"{how}.ko").read_bytes() for how in ("debug", "all")}
    vm = new_vm(modules=["loop"], files=files)
    refused = vm.fail("insmod", "/all.ko")
    assert "Invalid module format" in refused.errors
    assert vm.dmesg.matching(r"has no symbols \(stripped\?\)")
    vm.succeed("insmod", "/debug.ko")
    assert names(vm) == {"dummy"}
