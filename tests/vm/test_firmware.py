"""Case 39 of modules in a guest: its kernel finds the firmware that was packed with a closure."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.boot_variants import variant

pytestmark = pytest.mark.slow

# Its init asks for a file, and says what is in it.
ASKING = """
#include <linux/device.h>
#include <linux/firmware.h>
#include <linux/module.h>
static int __init start(void)
{
	struct device *device = root_device_register("asking");
	const struct firmware *firmware;
	int error;

	if (IS_ERR(device))
		return PTR_ERR(device);
	error = request_firmware(&firmware, "asking/first.bin", device);
	root_device_unregister(device);
	if (error)
		return error;
	pr_info("asking: got %.*s\\n", (int)firmware->size, firmware->data);
	release_firmware(firmware);
	return 0;
}
static void __exit end(void) { }
module_init(start);
module_exit(end);
MODULE_FIRMWARE("asking/first.bin");
MODULE_LICENSE("GPL");
"""
EXTERNAL = {"asking": ASKING}
CONTENT = b"firmware"
FOUND = "asking: got firmware"


def packed(cell: Cell, place: Path) -> Closure:
    return resolve_closure(
        cell.variant(external=EXTERNAL).tree, ["asking"], firmware_directory=place
    )


def refused(vm: Vm) -> None:
    assert vm.fail("modprobe", "asking").status == 1
    assert vm.dmesg.matching(r"Direct firmware load for asking/first\.bin failed")
    assert vm.modules == ()


@pytest.mark.every_cell
class TestLinks:
    """A chain of links is packed, and the kernel follows it."""

    def test_are_followed(self, new_vm: BootVm, cell: Cell, tmp_path: Path) -> None:
        (tmp_path / "asking").mkdir()
        (tmp_path / "real").mkdir()
        (tmp_path / "asking" / "first.bin").symlink_to("second.bin")
        (tmp_path / "asking" / "second.bin").symlink_to("../real/last.bin")
        (tmp_path / "real" / "last.bin").write_bytes(CONTENT)
        closure = packed(cell, tmp_path)
        assert len(closure.firmware.files) == 3
        vm = new_vm(closure=closure, external=EXTERNAL)
        vm.modprobe("asking")
        assert FOUND in vm.dmesg

    def test_a_missing_firmware_file_is_an_error(self, new_vm: BootVm) -> None:
        refused(new_vm(modules=["asking"], external=EXTERNAL))


def by_xz(content: bytes) -> bytes:
    # The kernel knows no other check (Documentation/staging/xz.rst).
    return lzma.compress(content, check=lzma.CHECK_CRC32)


def by_zstd(content: bytes) -> bytes:
    zstd = pytest.importorskip("backports.zstd", reason="pip install pytest-kernelvm[zstd]")
    compressed: bytes = zstd.compress(content)
    return compressed


@pytest.mark.spread("firmware")
@pytest.mark.parametrize(
    ("suffix", "compress"), [("xz", by_xz), ("zst", by_zstd)], ids=["xz", "zst"]
)
class TestCompressed:
    """It is packed as it is, and the kernel unpacks it if it has FW_LOADER_COMPRESS."""

    def start(
        self, cell: Cell, place: Path, suffix: str, content: bytes, tmp_path: Path
    ) -> AbstractContextManager[Vm]:
        (place / "asking").mkdir(parents=True)
        (place / "asking" / f"first.bin.{suffix}").write_bytes(content)
        closure = packed(cell, place)
        assert [str(file.relative) for file in closure.firmware.files] == [
            f"asking/first.bin.{suffix}"
        ]
        asking = cell.variant(external=EXTERNAL)
        return boot_guest(asking.bootable(closure=closure), tmp_path)

    def test_is_unpacked(
        self, cell: Cell, tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
    ) -> None:
        unpacking = variant(
            cell,
            {
                "FW_LOADER_COMPRESS": "y",
                "FW_LOADER_COMPRESS_XZ": "y",
                "FW_LOADER_COMPRESS_ZSTD": "y",
            },
        )
        place = tmp_path / "firmware"
        with self.start(unpacking, place, suffix, compress(CONTENT), tmp_path) as vm:
            vm.modprobe("asking")
            assert FOUND in vm.dmesg

    def test_is_not_looked_for(
        self, cell: Cell, tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
    ) -> None:
        place = tmp_path / "firmware"
        with self.start(cell, place, suffix, compress(CONTENT), tmp_path) as vm:
            refused(vm)
