"""The cookie in front of every way in which kernels put their command line together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.session.cmdline import BOOTLOADER, BUILTIN, TREE, assert_cmdline_from
from tests.vm.boot_variants import variant
from tests.vm.provoking import bare

pytestmark = pytest.mark.slow

COOKIE = "liminix"
# arch/mips/Kconfig, `Kernel command line type`, and arch/arm64/Kconfig.
CHOICES = (
    "MIPS_CMDLINE_FROM_DTB",
    "MIPS_CMDLINE_DTB_EXTEND",
    "MIPS_CMDLINE_FROM_BOOTLOADER",
    "MIPS_CMDLINE_BUILTIN_EXTEND",
    "CMDLINE_FROM_BOOTLOADER",
    "CMDLINE_FORCE",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """One way to put a command line together, and who contributes.

    symbol: what chooses it. tree: whether the built-in device tree has bootargs.
    heeded, ignored: with the cookie required, where the bootloader's line has it and where not.
    off: where none is required.
    """

    name: str
    symbol: str
    heeded: tuple[str, ...]
    ignored: tuple[str, ...]
    off: tuple[str, ...]
    tree: bool = True


MODES = (
    Mode(
        name="builtin-extend",
        symbol="MIPS_CMDLINE_BUILTIN_EXTEND",
        heeded=(BUILTIN, BOOTLOADER),
        ignored=(BUILTIN,),
        off=(BUILTIN, BOOTLOADER),
    ),
    Mode(
        name="from-dtb",
        symbol="MIPS_CMDLINE_FROM_DTB",
        heeded=(TREE, BUILTIN),
        ignored=(TREE, BUILTIN),
        off=(TREE, BUILTIN),
    ),
    # Without bootargs in the tree what is left is the built-in line alone.
    Mode(
        name="builtin-only",
        symbol="MIPS_CMDLINE_FROM_DTB",
        heeded=(BOOTLOADER,),
        ignored=(BUILTIN,),
        off=(BOOTLOADER, BUILTIN),
        tree=False,
    ),
    Mode(
        name="dtb-extend",
        symbol="MIPS_CMDLINE_DTB_EXTEND",
        heeded=(TREE, BOOTLOADER),
        ignored=(TREE, BUILTIN),
        off=(TREE, BOOTLOADER, BUILTIN),
    ),
    Mode(
        name="from-bootloader",
        symbol="MIPS_CMDLINE_FROM_BOOTLOADER",
        heeded=(BOOTLOADER,),
        ignored=(BUILTIN,),
        off=(BOOTLOADER, BUILTIN),
        tree=False,
    ),
    Mode(
        name="override",
        symbol="CMDLINE_OVERRIDE",
        heeded=(BUILTIN,),
        ignored=(BUILTIN,),
        off=(BUILTIN,),
    ),
    Mode(
        name="arm64-from-bootloader",
        symbol="CMDLINE_FROM_BOOTLOADER",
        heeded=(BOOTLOADER,),
        ignored=(BUILTIN,),
        off=(BOOTLOADER,),
        tree=False,
    ),
    Mode(
        name="arm64-force",
        symbol="CMDLINE_FORCE",
        heeded=(BUILTIN,),
        ignored=(BUILTIN,),
        off=(BUILTIN,),
        tree=False,
    ),
)

Boot = Callable[[Cell, str], Vm]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Boots a cell with exactly this line from the bootloader; the initramfs is where both say."""
    with ExitStack() as stack:

        def give(cell: Cell, line: str) -> Vm:
            made = cell.boot(cell.initramfs(cell.closure(())), cookie=False)
            number = len(list(tmp_path.iterdir()))
            directory = tmp_path / str(number)
            directory.mkdir()
            return stack.enter_context(
                bare(cell, directory, dataclasses.replace(made, cmdline=line))
            )

        yield give


def start_of_line(cell: Cell, contributing: tuple[str, ...]) -> str:
    """Return what the bootloader's line needs to bring a guest up.

    rd_start= twice is the end of the initramfs: the kernel adds both up (arch/mips/kernel/setup.c,
    rd_start_early()). So it is given where the built-in line, which has it, does not count.
    """
    fixed = cell.config.arch.fixed_initramfs
    where = fixed.cmdline if fixed and BUILTIN not in contributing else ""
    return f"{where} {cell.config.arch.base_cmdline}".strip()


def offers(cell: Cell, symbol: str) -> bool:
    """Whether a cell's configuration may have a symbol, be it set or not."""
    lines = (cell.kernel.directory / "config").read_text().splitlines()
    return f"CONFIG_{symbol}=y" in lines or f"# CONFIG_{symbol} is not set" in lines


def of_mode(cell: Cell, mode: Mode, *, required: bool = True, whole_word: bool = False) -> Cell:
    """Return the cell with a kernel of this mode; the base cell's own where it is that."""
    arch = cell.config.arch
    if not arch.cookie:
        pytest.skip(f"a kernel for {arch.name} has no support for a cookie")
    if not offers(cell, mode.symbol):
        pytest.skip(f"the kernel has no {mode.symbol}")
    if mode.tree and not arch.first_stage:
        pytest.skip(f"kernels for {arch.name} have no tree built in")
    own = mode.symbol in arch.builtin_cmdline_symbols
    if own and required and not whole_word:
        return cell
    cookie = (arch.cookie.require_symbol, arch.cookie.symbol)
    symbols = {mode.symbol: "y"}
    if whole_word:
        symbols[arch.cookie.word_symbol] = "y"
    return variant(
        cell,
        symbols,
        without=(*CHOICES, *(() if required else cookie)),
        patches=["malta-bootargs"] if mode.tree else [],
    )


def longest(cell: Cell, begin: str, end: str) -> str:
    """Return a line of all the bytes that reach the kernel."""
    room = cell.config.arch.cmdline_bytes - len(begin) - len(end) - len("  long.word=")
    return f"{begin} long.word={'x' * room} {end}"


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_with_the_cookie_required(cell: Cell, mode: Mode, boot: Boot) -> None:
    kernel = of_mode(cell, mode)
    wheres = start_of_line(cell, mode.heeded)
    heeded = {
        "at the end": f"{wheres} said.by=bootloader {COOKIE}",
        "in the middle": f"{wheres} {COOKIE} said.by=bootloader",
        "in another word": f"{wheres} said.by=x{COOKIE}y",
        "longest": longest(cell, wheres, COOKIE),
        "not ASCII": f"{wheres} said.by=größe\u20ac {COOKIE}",
    }
    for line in heeded.values():
        assert_cmdline_from(boot(kernel, line), *mode.heeded)
    wheres = start_of_line(cell, mode.ignored)
    ignored = {
        "without": f"{wheres} said.by=bootloader",
        "almost": f"{wheres} said.by=bootloader {COOKIE[:-1]} {COOKIE.upper()}",
        "empty": "",
        "longest": longest(cell, wheres, "said.by=bootloader"),
        "not ASCII": f"{wheres} said.by=größe\u20ac limini\u00d7",
    }
    for line in ignored.values():
        assert_cmdline_from(boot(kernel, line), *mode.ignored)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_without_the_feature(cell: Cell, mode: Mode, boot: Boot) -> None:
    kernel = of_mode(cell, mode, required=False)
    wheres = start_of_line(cell, mode.off)
    for line in (f"{wheres} said.by=bootloader", f"{wheres} said.by=bootloader {COOKIE}"):
        vm = boot(kernel, line)
        assert_cmdline_from(vm, *mode.off)
        assert "no cookie" not in vm.dmesg


@pytest.mark.parametrize("name", ["from-bootloader", "arm64-from-bootloader"])
def test_the_cookie_as_a_word(cell: Cell, name: str, boot: Boot) -> None:
    (mode,) = (each for each in MODES if each.name == name)
    kernel = of_mode(cell, mode, whole_word=True)
    wheres = start_of_line(cell, mode.heeded)
    for line in (
        f"{COOKIE} {wheres}",
        f"{wheres} {COOKIE}",
        f"{wheres} x{COOKIE} {COOKIE} {COOKIE}y",
        f"{wheres}\t{COOKIE}\tsaid.by=bootloader",
    ):
        assert_cmdline_from(boot(kernel, line), *mode.heeded)
    for line in (
        f"{COOKIE}y {wheres}",
        f"{wheres} x{COOKIE}",
        f"{wheres} a={COOKIE} {COOKIE}=b",
        "",
    ):
        assert_cmdline_from(boot(kernel, line), *mode.ignored)
