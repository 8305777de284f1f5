"""The initramfs holds exactly the closure, and the closure is what the modules need."""

import dataclasses
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Closure, Initramfs, Vm
from pytest_kernelvm.guest.initramfs import MODPROBE_CONF
from pytest_kernelvm.modules.firmware import Firmware, FirmwareFile

WANTED = ("nft_ct", "bridge", "8021q")
METADATA = ("dep", "alias", "symbols", "softdep", "builtin", "builtin.modinfo")

pytestmark = pytest.mark.kernelvm(modules=WANTED)


def names(vm: Vm) -> set[str]:
    return {module.name for module in vm.modules}


def test_initramfs_holds_the_closure_and_nothing_else(
    initramfs: Initramfs, closure: Closure
) -> None:
    tree = f"lib/modules/{closure.release}"
    files = {
        "init",
        "sbin/modprobe",
        "sbin/insmod",
        "sbin/lsmod",
        "sbin/rmmod",
        MODPROBE_CONF,
        *(f"{tree}/{module.file.relative}" for module in closure.modules),
        *(f"{tree}/modules.{name}" for name in METADATA),
    }
    parents = {path[:at] for path in files for at, letter in enumerate(path) if letter == "/"}
    assert set(initramfs.paths) == files | parents


def test_guest_finds_the_same_files(vm: Vm, closure: Closure) -> None:
    for module in closure.modules:
        path = f"/lib/modules/{closure.release}/{module.file.relative}"
        assert vm.stat(path).size_bytes == module.path.stat().st_size


# Without nf_defrag_ipv6, which takes a second to unload.
@pytest.mark.kernelvm(modules=["nft_log", "bridge", "8021q"])
def test_one_by_one_in_load_order(vm: Vm, closure: Closure) -> None:
    paths = {module.name: module.file.relative for module in closure.modules}
    for name in closure.load_order:
        vm.succeed("insmod", f"/lib/modules/{closure.release}/{paths[name]}")
    assert [module.name for module in reversed(vm.modules)] == list(closure.load_order)
    for name in closure.unload_order:
        vm.succeed("rmmod", name)
    assert vm.modules == ()


def test_loaded_modules_are_the_closure(vm: Vm, closure: Closure) -> None:
    assert not vm.modules
    vm.modprobe("-a", *WANTED)
    assert names(vm) == set(closure.load_order)
    assert {module.state for module in vm.modules} == {"Live"}


def test_holders_are_the_dependents(vm: Vm, closure: Closure) -> None:
    vm.modprobe("-a", *WANTED)
    held = {module.name: set(module.holders) for module in vm.modules}
    for module in closure.modules:
        for dependency in module.file.dependencies:
            if dependency in held:
                assert module.name in held[dependency] or any(
                    module.name in held[other] for other in module.file.dependencies
                )
    assert held["nf_conntrack"] >= {"nft_ct"}


def test_order_matters(vm: Vm, closure: Closure) -> None:
    last = next(module for module in closure.modules if module.name == "nft_ct")
    result = vm.fail("insmod", f"/lib/modules/{closure.release}/{last.file.relative}")
    assert "Unknown symbol" in result.errors
    assert vm.dmesg.matching(r"nft_ct: Unknown symbol nf?t?_\w+")
    assert vm.modules == ()


@pytest.mark.parametrize("taken", ["nf_conntrack", "nf_tables"])
def test_without_one_dependency_the_kernel_says_why(
    new_vm: BootVm, closure: Closure, taken: str
) -> None:
    vm = new_vm(closure=closure.without(taken))
    result = vm.fail("modprobe", "nft_ct")
    assert result.status == 1
    assert "Unknown symbol" in result.errors
    assert vm.dmesg.matching("nft_ct: Unknown symbol")
    assert "nft_ct" not in names(vm)
    assert taken not in names(vm)


def test_without_modules_there_is_no_modprobe(new_vm: BootVm) -> None:
    vm = new_vm(modules=())
    assert not vm.exists("/sbin")
    assert not vm.exists("/lib")
    assert vm.run("modprobe", "loop").errno != 0


def test_firmware_is_packed_with_its_links(
    new_vm: BootVm, closure: Closure, tmp_path: Path
) -> None:
    (tmp_path / "real.bin").write_bytes(b"firmware")
    (tmp_path / "link.bin").symlink_to("real.bin")
    files = (FirmwareFile(relative="link.bin", link="real.bin"), FirmwareFile(relative="real.bin"))
    firmware = Firmware(directory=tmp_path, files=files)
    vm = new_vm(closure=dataclasses.replace(closure, firmware=firmware))
    assert vm.read("/lib/firmware/link.bin") == "firmware"
