"""Distribution kernels, which nobody here compiled: the agent shares their console."""

from pathlib import Path

import pytest

from pytest_kernelvm.config import prebuilt_cell, source_named
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.kernel.prebuilt import arch_of
from pytest_kernelvm.kernel.store import Store
from pytest_kernelvm.vm.cell import Cell
from pytest_kernelvm.vm.vm import Vm


@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "shared"),
    [("linux-image-arm64@bookworm", True), ("linux-image-4kc-malta:mipsel@bookworm", False)],
)
def test_a_kernel_of_debian(
    package: str, shared: bool, kernelvm_store: Store, tmp_path: Path
) -> None:
    source = source_named(f"prebuilt:debian:{package}")
    try:
        cell = Cell(prebuilt_cell(source, arch_of(kernelvm_store, source)), kernelvm_store)
        kernel = cell.kernel
    except ToolMissing as missing:
        pytest.skip(str(missing))
    assert kernel.shared_console == shared
    assert len(cell.tree.modules) > 2500
    with Vm(cell.bootable(modules=["nft_ct"]), tmp_path) as vm:
        assert vm.uname.release == kernel.release
        vm.modprobe("nft_ct")
        assert {module.name for module in vm.modules} >= {"nft_ct", "nf_conntrack", "nf_tables"}
        vm.power_off()
