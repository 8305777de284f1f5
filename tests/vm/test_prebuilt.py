"""Distribution kernels, which nobody here compiled: the agent shares their console."""

from pathlib import Path

import pytest

from pytest_kernelvm.config.select import prebuilt_cell
from pytest_kernelvm.config.sources import source_named
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.kernel.prebuilt.prebuilt import arch_of
from pytest_kernelvm.process import run
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.start import boot_guest

pytestmark = [pytest.mark.vm, pytest.mark.slow]

# Documentation/admin-guide/tainted-kernels.rst: an unsigned module was loaded.
TAINT_UNSIGNED = 1 << 13


def cell_of(package: str, store: Store) -> Cell:
    """Return the cell of a kernel of Debian's; skips where apt is missing."""
    source = source_named(f"prebuilt:debian:{package}")
    try:
        cell = Cell(prebuilt_cell(source, arch_of(store, source)), store)
        assert cell.kernel
    except ToolMissing as missing:
        pytest.skip(str(missing))
    return cell


@pytest.mark.parametrize(
    ("package", "shared"),
    [("linux-image-arm64@bookworm", True), ("linux-image-4kc-malta:mipsel@bookworm", False)],
)
def test_a_kernel_of_debian(
    package: str, shared: bool, kernelvm_store: Store, tmp_path: Path
) -> None:
    cell = cell_of(package, kernelvm_store)
    kernel = cell.kernel
    assert kernel.shared_console == shared
    assert len(cell.tree.modules) > 2500
    with boot_guest(cell.bootable(modules=["nft_ct"]), tmp_path) as vm:
        assert vm.uname.release == kernel.release
        vm.modprobe("nft_ct")
        assert {module.name for module in vm.modules} >= {"nft_ct", "nf_conntrack", "nf_tables"}
        vm.power_off()


def test_a_signature_outlives_packing_but_not_strip(kernelvm_store: Store, tmp_path: Path) -> None:
    """Case 37 of modules, on a kernel whose modules are signed and that insists on it."""
    cell = cell_of("linux-image-4kc-malta:mipsel@bookworm", kernelvm_store)
    signed = cell.closure(["dummy"]).files[0].read_bytes()
    assert signed.endswith(b"~Module signature appended~\n")
    (tmp_path / "dummy.ko").write_bytes(signed)
    strip = f"{cell.config.arch.toolchain_prefix}strip"
    stripped = tmp_path / "stripped.ko"
    run([strip, "--strip-debug", "-o", stripped, tmp_path / "dummy.ko"], timeout_s=60)
    files = {"/stripped.ko": stripped.read_bytes()}
    with boot_guest(cell.bootable(modules=["dummy"], files=files), tmp_path) as vm:
        vm.modprobe("dummy")
        assert not int(vm.read("/proc/sys/kernel/tainted")) & TAINT_UNSIGNED
        vm.modprobe("-r", "dummy")
        vm.succeed("insmod", "/stripped.ko")
        assert int(vm.read("/proc/sys/kernel/tainted")) & TAINT_UNSIGNED
        vm.modprobe("-r", "dummy")
        vm.write("/sys/module/module/parameters/sig_enforce", "1")
        refused = vm.fail("insmod", "/stripped.ko")
        assert "Key was rejected by service" in refused.errors
        vm.modprobe("dummy")
        vm.power_off()
