"""A bootloader of ours in front of the kernel: what QEMU's cannot hand over."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.errors import BadInput, GuestPanic
from pytest_kernelvm.session.cmdline import BOOTLOADER, BUILTIN, TREE, assert_cmdline_from
from pytest_kernelvm.vm.bootpath.device_tree import get_property, reserve, set_property
from pytest_kernelvm.vm.bootpath.first_stage import (
    LoadedBytes,
    boot_through,
    read_image,
    uhi_stage,
    yamon_stage,
)
from pytest_kernelvm.vm.bootpath.layout import PAGE_BYTES, Extent, lay_out
from tests.vm.boot_variants import with_device_tree
from tests.vm.provoking import bare

pytestmark = pytest.mark.spread("boot paths")

ROOT_BYTES = 1 << 20
Enter = Callable[[Cell, LoadedBytes, str], Vm]


@pytest.fixture(autouse=True)
def _has_first_stage(cell: Cell) -> None:
    if not cell.config.arch.first_stage:
        pytest.skip(f"{cell.config.arch.name} gets its command line in the tree")


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Enter]:
    """Boots a cell through a first stage; the command line is told for messages only."""
    with contextlib.ExitStack() as stack:

        def give(cell: Cell, stage: LoadedBytes, cmdline: str) -> Vm:
            directory = tmp_path / str(len(list(tmp_path.iterdir())))
            directory.mkdir()
            made = cell.boot(cell.initramfs(cell.closure(())), cookie=False)
            boot = boot_through(dataclasses.replace(made, cmdline=cmdline), stage, directory)
            return stack.enter_context(bare(cell, directory, boot))

        yield give


def yamon(cell: Cell, line: str) -> LoadedBytes:
    config = cell.config
    entry = read_image(cell.kernel.image, config.arch).entry
    return yamon_stage(
        config.arch, entry, cmdline=line, memory_bytes=config.machine.memory_mib << 20
    )


def longest(cell: Cell) -> int:
    """Return how many bytes a command line may have."""
    stage = cell.config.arch.first_stage
    assert stage is not None
    return stage.cmdline_bytes


def line_of(cell: Cell, size_bytes: int, end: str) -> str:
    fixed = cell.config.arch.fixed_initramfs
    assert fixed is not None
    begin = f"{fixed.cmdline} {cell.config.arch.base_cmdline} long.word="
    return f"{begin}{'x' * (size_bytes - len(begin) - len(end) - 1)} {end}"


def test_the_longest_line_with_the_cookie(cell: Cell, enter: Enter) -> None:
    """Sixteen times as long as QEMU's bootloader can pass."""
    line = line_of(cell, longest(cell), cell.config.cookie.text)
    assert len(line) == longest(cell)
    vm = enter(cell, yamon(cell, line), line)
    assert_cmdline_from(vm, BOOTLOADER)


def test_the_longest_line_without_it(cell: Cell, enter: Enter) -> None:
    line = line_of(cell, longest(cell), "said.by=bootloader")
    assert_cmdline_from(enter(cell, yamon(cell, line), line), BUILTIN)


def test_no_longer_line_is_passed(cell: Cell) -> None:
    with pytest.raises(BadInput, match="4096 bytes"):
        yamon(cell, "x" * (longest(cell) + 1))


def test_bytes_that_are_no_text(cell: Cell, enter: Enter) -> None:
    fixed = cell.config.arch.fixed_initramfs
    assert fixed is not None
    odd = "odd.word=\udcff\udc80"
    line = f"{fixed.cmdline} {cell.config.arch.base_cmdline} {odd} {cell.config.cookie.text}"
    vm = enter(cell, yamon(cell, line), line)
    assert b"odd.word=\xff\x80" in vm.read_bytes("/proc/cmdline").split()


def uhi(cell: Cell, tree: bytes) -> LoadedBytes:
    config = cell.config
    entry = read_image(cell.kernel.image, config.arch).entry
    return uhi_stage(config.arch, entry, tree, memory_bytes=config.machine.memory_mib << 20)


def test_without_the_patch_a_tree_is_ignored(cell: Cell, enter: Enter) -> None:
    """The kernel takes its own; what UHI passes means an impossible argc to it."""
    vm = enter(cell, uhi(cell, b"no tree at all"), "")
    own = cell.config.arch.for_tests.compatible
    assert vm.read("/sys/firmware/devicetree/base/compatible") == f"{own}\0"
    assert_cmdline_from(vm, BUILTIN)


def memory_bytes(vm: Vm) -> int:
    return int(vm.read("/proc/meminfo").split()[1]) << 10


@pytest.fixture
def base(vm: Vm) -> bytes:
    """The tree that the kernel under test has built in, with what the board's code adds."""
    pytest.importorskip("libfdt", reason="pip install pytest-kernelvm[device-tree]")
    return vm.device_tree


@pytest.mark.slow
def test_a_property_of_the_passed_tree(cell: Cell, base: bytes, enter: Enter) -> None:
    """It is in /proc, and the driver obeys it."""
    paths = with_device_tree(cell)
    tree = set_property(base, "/", "model", "changed by a test")
    rtc = "/isa/rtc@70"
    assert get_property(tree, rtc, "reg") is not None
    tree = set_property(tree, rtc, "status", "disabled")
    vm = enter(paths, uhi(paths, tree), "")
    assert vm.read("/proc/device-tree/model") == "changed by a test\0"
    assert vm.device_tree != base
    assert not vm.exists("/sys/bus/platform/devices/70.rtc")
    # With its own tree it has the clock.
    vm = enter(paths, yamon(paths, line_of(paths, 200, cell.config.cookie.text)), "")
    assert not vm.exists("/proc/device-tree/model")


@pytest.mark.slow
def test_bootargs_of_the_passed_tree(cell: Cell, base: bytes, enter: Enter) -> None:
    paths = with_device_tree(cell)
    tree = set_property(base, "/chosen", "bootargs", "said.by=tree")
    assert_cmdline_from(enter(paths, uhi(paths, tree), ""), TREE, BUILTIN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tree", [b"", b"\xd0\x0d\xfe\xed" + b"\xff" * 60], ids=["empty", "corrupt"]
)
def test_a_corrupt_tree_is_a_panic_that_says_so(cell: Cell, tree: bytes, enter: Enter) -> None:
    paths = with_device_tree(cell)
    with pytest.raises(GuestPanic, match="Corrupt DT"):
        enter(paths, uhi(paths, tree), "")


@pytest.mark.slow
def test_an_image_placed_by_the_old_size_of_the_tree(cell: Cell, base: bytes, enter: Enter) -> None:
    """A tree grows over a page's end; what was placed behind it before is in its place then."""
    paths = with_device_tree(cell)
    room = -len(base) % PAGE_BYTES
    before = set_property(base, "/", "filler", bytes(max(0, room - 64)))
    after = reserve(before, "rootfs", 0x7000000, ROOT_BYTES)
    image = b"\xff" * PAGE_BYTES
    pages = Extent(name="RAM", address=0, size_bytes=1 << 20)

    def in_memory(size_bytes: int) -> bytes:
        """Return the tree and behind it the image, placed for a tree of a size."""
        _tree, image_at = lay_out(pages, [("tree", size_bytes), ("image", len(image))])
        memory = bytearray(image_at.end)
        memory[: len(after)] = after
        memory[image_at.address : image_at.end] = image
        return bytes(memory)

    assert -(-len(before) // PAGE_BYTES) < -(-len(after) // PAGE_BYTES)
    with pytest.raises(GuestPanic):
        enter(paths, uhi(paths, in_memory(len(before))), "")
    plain = enter(paths, uhi(paths, before), "")
    vm = enter(paths, uhi(paths, in_memory(len(after))), "")
    assert vm.exists("/proc/device-tree/reserved-memory/rootfs@7000000")
    assert memory_bytes(plain) - memory_bytes(vm) > 0.9 * ROOT_BYTES
