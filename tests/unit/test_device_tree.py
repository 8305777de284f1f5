"""Device trees that are changed, with libfdt and read back by dtc."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.process import run
from pytest_kernelvm.vm.bootpath.device_tree import get_property, reserve, set_property
from pytest_kernelvm.vm.bootpath.layout import PAGE_BYTES, Extent, lay_out

libfdt = pytest.importorskip("libfdt", reason="pip install pytest-kernelvm[device-tree]")

NAMES = st.text("abcdefghijklmnopqrstuvwxyz,", min_size=1, max_size=20)


@pytest.fixture(scope="module")
def small() -> bytes:
    fdt = libfdt.Fdt.create_empty_tree(256)
    fdt.pack()
    tree = bytes(fdt.as_bytearray())[: fdt.totalsize()]
    for name in ("#address-cells", "#size-cells"):
        tree = set_property(tree, "/", name, 1)
    return set_property(tree, "/", "compatible", "mti,malta")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, value=st.binary(max_size=9000))
def test_what_is_set_is_there(small: bytes, name: str, value: bytes) -> None:
    changed = set_property(small, "/one/two", name, value)
    assert get_property(changed, "/one/two", name) == value
    assert get_property(changed, "/", "compatible") == b"mti,malta\0"
    assert get_property(changed, "/", "nobody's") is None


def test_dtc_reads_a_reservation(small: bytes, tmp_path: Path) -> None:
    if not shutil.which("dtc"):
        pytest.skip("apt-get install device-tree-compiler")
    changed = reserve(small, "rootfs", 0x7000000, 0x100000)
    (tmp_path / "tree.dtb").write_bytes(changed)
    text = run(["dtc", "-q", "-I", "dtb", "-O", "dts", tmp_path / "tree.dtb"], timeout_s=30).stdout
    assert "rootfs@7000000 {" in text
    assert "reg = <0x7000000 0x100000>;" in text
    assert 'compatible = "phram";' in text
    assert "ranges;" in text


def test_wide_cells(small: bytes) -> None:
    wide = set_property(set_property(small, "/", "#address-cells", 2), "/", "#size-cells", 2)
    changed = reserve(wide, "rootfs", 0x1_0000_0000, 0x1000)
    found = get_property(changed, "/reserved-memory/rootfs@100000000", "reg")
    assert found == bytes.fromhex("00000001 00000000 00000000 00001000")


@pytest.mark.parametrize("raw", [b"", b"\0" * 64, b"\xd0\x0d\xfe\xed" + b"\xff" * 60])
def test_bytes_that_are_no_tree_are_refused(raw: bytes) -> None:
    with pytest.raises(BadInput, match="libfdt refuses"):
        set_property(raw, "/", "a", 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filler=st.integers(0, 2 * PAGE_BYTES))
def test_a_tree_that_grew_is_placed_by_its_final_size(small: bytes, filler: int) -> None:
    """Whatever its size is before, also just below a page's end: what lies behind is behind it."""
    before = set_property(small, "/", "filler", bytes(filler))
    after = reserve(before, "rootfs", 0x7000000, 0x100000)
    assert len(after) > len(before)
    room = Extent(name="RAM", address=0x2000000, size_bytes=0x100000)
    tree, image = lay_out(room, [("tree", len(after)), ("image", 5000)])
    assert tree.end <= image.address
    (_tree, naive) = lay_out(room, [("tree", len(before)), ("image", 5000)])
    crosses = -(-len(before) // PAGE_BYTES) != -(-len(after) // PAGE_BYTES)
    assert crosses == (naive.address < tree.end)
