"""An architecture is a row: what that is enough for, and what the rows must agree on."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from pytest_kernelvm.arch.base import Arch, ImageMagic, Packages
from pytest_kernelvm.arch.registry import ARCHES, arch_named, registered
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.schema import json_schema
from pytest_kernelvm.config.select import prebuilt_cell, select_cells
from pytest_kernelvm.config.sources import source_named
from pytest_kernelvm.doctor.examination import examine
from pytest_kernelvm.doctor.finding import SYSTEMS
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.kernel.build.keys import make_variables
from pytest_kernelvm.kernel.prebuilt.package_name import named_package
from pytest_kernelvm.kernel.prebuilt.prebuilt import arch_of
from pytest_kernelvm.kernel.uboot import obtain_uboot
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.bootpath.kexec import kexec_image
from pytest_kernelvm.vm.qemu.argv import ON_TERMINAL, Boot, qemu_argv
from pytest_kernelvm.vm.verdict.calibration import calibration_of
from pytest_kernelvm.vm.verdict.deadlines import Calibration
from pytest_kernelvm.vm.verdict.hang_probe import program_counter
from tests.unit.test_prebuilt import imported, lend, write_root

FAMILIES = Path(__file__).parents[2] / "pytest_kernelvm" / "arch"

# Nobody has written a file for it: what a row can say is all that there is.
X86_64 = Arch(
    name="x86_64",
    linux_arch="x86",
    qemu_arch="x86_64",
    uname="x86_64",
    endianness="little",
    elf_class=64,
    elf_machine=62,
    toolchain_prefix="x86_64-linux-gnu-",
    compiler_packages=Packages(apt="gcc-x86-64-linux-gnu", dnf="gcc-x86_64-linux-gnu"),
    qemu_packages=Packages(apt="qemu-system-x86", dnf="qemu-system-x86-core", nix="qemu"),
    debian_arch="amd64",
    machine="q35",
    cpu="qemu64",
    images={"bzImage": "arch/x86/boot/bzImage", "vmlinux": "vmlinux"},
    # Documentation/arch/x86/boot.rst, `header`.
    image_magic=ImageMagic(offset=0x202, content=b"HdrS"),
    console="ttyS0",
    channel="ttyS1",
    channel_argv=("-serial", "chardev:channel"),
    channel_symbols=("SERIAL_8250",),
    pc_register=r"\bRIP=([0-9a-f]{16})\b",
    max_memory_mib=2048,
    builtin_cmdline_symbols=("CMDLINE_BOOL",),
    # COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h).
    cmdline_bytes=2047,
)
CONFIG = 'arch: x86_64\nkernel: {version: ["6.1", "6.12"], image: bzImage}\n'
BZIMAGE = (b"MZ" + bytes(0x200) + b"HdrS").ljust(4096, b"\0") + b"Linux version 6.12.30 (gcc)"
# As QEMU's monitor shows it (target/i386/cpu-dump.c).
REGISTERS = "R14=0000000000000000 R15=0000000000000000\nRIP=ffffffff81c0a2db RFL=00000246\n"


@pytest.fixture
def x86_64() -> Iterator[Arch]:
    with registered(X86_64) as arch:
        yield arch


@pytest.fixture
def cells(x86_64: Arch, tmp_path: Path) -> tuple[CellConfig, ...]:
    """The cells of a directory of vm-configs, of which one is of the new architecture."""
    (tmp_path / "pc.yaml").write_text(CONFIG)
    (tmp_path / "other.yaml").write_text('arch: aarch64\nkernel: {version: "6.12"}\n')
    return select_cells(tmp_path, arches=[x86_64.name])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


def boot(config: CellConfig, directory: Path) -> Boot:
    (directory / "initramfs").write_bytes(b"archive")
    return Boot(
        arch=config.arch,
        machine=config.machine,
        image=directory / config.kernel.image,
        initramfs=directory / "initramfs",
        cmdline=config.bootloader_cmdline(),
        network="user",
    )


# A row alone


def test_a_row_is_there_as_long_as_its_context() -> None:
    before = tuple(ARCHES)
    with pytest.raises(BadInput, match="unknown arch 'x86_64'"):
        arch_named("x86_64")
    with registered(X86_64):
        assert arch_named("x86_64") is X86_64
        with pytest.raises(BadInput, match="an arch 'x86_64' already"), registered(X86_64):
            pass
        assert arch_named("x86_64") is X86_64
    assert tuple(ARCHES) == before


def test_vm_configs_may_name_it(cells: tuple[CellConfig, ...], x86_64: Arch) -> None:
    assert [cell.id for cell in cells] == ["pc-6.1", "pc-6.12"]
    cell = cells[0]
    assert (cell.arch, cell.machine.cpu, cell.kernel.image) == (x86_64, "qemu64", "bzImage")
    asked = {request.name: request.value for request in cell.kernel.symbols}
    assert asked == {
        "CMDLINE_BOOL": "y",
        "CMDLINE": '"console=ttyS0 panic=-1 printk.devkmsg=on"',
    }
    assert make_variables(cell)[:2] == ("ARCH=x86", "CROSS_COMPILE=x86_64-linux-gnu-")
    jsonschema.validate(yaml.safe_load(CONFIG), json_schema())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arch: x86_64\nkernel: {version: 6.12, image: Image}\n", "no image target 'Image'"),
        ("arch: x86_64\nkernel: {version: 6.12}\nmachine: {memory_mib: 4096}\n", "at most 2048"),
        ("arch: x86_64\nkernel: {version: 6.12}\ncookie: liminix\n", "has no support for a cookie"),
        ("arch: x86-64\nkernel: {version: 6.12}\n", "did you mean 'x86_64'"),
    ],
)
@pytest.mark.usefixtures("x86_64")
def test_vm_configs_cannot_ask_for_what_it_lacks(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pc.yaml").write_text(text)
    with pytest.raises(BadInput) as refused:
        read_config(tmp_path / "pc.yaml")
    assert words in str(refused.value)


def test_a_vm_config_cannot_name_it_without_its_row(tmp_path: Path) -> None:
    (tmp_path / "pc.yaml").write_text(CONFIG)
    with pytest.raises(BadInput, match="'x86_64': "):
        read_config(tmp_path / "pc.yaml")


def test_qemu_boots_it(cells: tuple[CellConfig, ...], tmp_path: Path) -> None:
    argv = qemu_argv(boot(cells[1], tmp_path), ON_TERMINAL)
    assert argv[:5] == ("qemu-system-x86_64", "-M", "q35", "-cpu", "qemu64")
    assert argv[argv.index("-netdev") :] == (
        *("-netdev", "user,id=net0,restrict=on"),
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
        *("-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"),
        *("-chardev", "null,id=channel", "-serial", "chardev:channel"),
        *("-mon", "chardev=console,mode=readline"),
        *("-kernel", f"{tmp_path / 'bzImage'}", "-initrd", f"{tmp_path / 'initramfs'}"),
        *("-append", "console=ttyS0 panic=-1 printk.devkmsg=on"),
    )


def test_the_doctor_knows_what_it_needs(cells: tuple[CellConfig, ...]) -> None:
    findings = {finding.name: finding for finding in examine(cells)}
    qemu, compiler = findings["qemu-system-x86_64"], findings["x86_64-linux-gnu-gcc"]
    assert qemu.cells == compiler.cells == ("pc-6.1", "pc-6.12")
    assert qemu.packages == {
        "apt": ("qemu-system-x86",),
        "dnf": ("qemu-system-x86-core",),
        "nix": ("qemu",),
    }
    assert compiler.packages["dnf"] == ("gcc-x86_64-linux-gnu",)
    assert "pacman has no package of x86_64-linux-gnu-gcc" in compiler.notes["pacman"]


@pytest.mark.parametrize(
    "content",
    [BZIMAGE, b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(100)],
    ids=["bzImage", "vmlinux"],
)
def test_its_images_are_recognised(content: bytes, x86_64: Arch, store: Store) -> None:
    root = store.root.parent / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot/vmlinuz-6.12.30").write_bytes(content)
    source = source_named(f"prebuilt:{root}")
    assert arch_of(store, source) is x86_64
    assert prebuilt_cell(source, x86_64).machine.memory_mib == 512


def test_an_image_with_the_name_of_its_make_target_is_recognised(
    x86_64: Arch, store: Store
) -> None:
    root = store.root.parent / "root"
    root.mkdir()
    (root / "bzImage").write_bytes(BZIMAGE)
    assert arch_of(store, source_named(f"prebuilt:{root}")) is x86_64


@pytest.mark.usefixtures("x86_64")
def test_its_debian_packages_are_recognised() -> None:
    package = named_package(source_named("prebuilt:debian:linux-image-amd64@bookworm"))
    assert package is not None
    assert package.arch == "amd64"


def test_unknown_facts_of_an_arch_are_reported_or_skipped(
    cells: tuple[CellConfig, ...], x86_64: Arch, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no U-Boot for x86_64"):
        obtain_uboot(store, x86_64)
    with pytest.raises(BadInput, match="kexec is not known to work on x86_64"):
        kexec_image(boot(cells[0], tmp_path))
    assert calibration_of(store, x86_64, cells[0].machine) == Calibration()


@pytest.mark.parametrize("channel", ["", "ttyS1"])
def test_without_a_second_port_the_agent_shares_the_console(
    channel: str, store: Store, tmp_path: Path
) -> None:
    row = replace(
        X86_64, name="row", channel=channel, channel_argv=X86_64.channel_argv if channel else ()
    )
    root = write_root(tmp_path / "root", BZIMAGE, release="6.12.30")
    (root / "boot/config-6.12.30").write_text("CONFIG_SERIAL_8250=y\n")
    with registered(row):
        lend(store, "6.12.30", row.name)
        kernel = imported(store, str(root), row.name)
        assert kernel.shared_console is not bool(channel)
        cell = prebuilt_cell(source_named(f"prebuilt:{root}"), row)
        argv = qemu_argv(boot(cell, tmp_path), ON_TERMINAL)
        assert ("chardev:channel" in argv) is bool(channel)


# Where a CPU is


def test_the_program_counter_is_found(x86_64: Arch) -> None:
    assert program_counter(REGISTERS, x86_64) == 0xFFFFFFFF81C0A2DB
    assert program_counter("no registers", x86_64) is None


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_qemu_shows_registers_as_the_row_says(arch: Arch) -> None:
    """On a machine that has not started: the counter of the loop is zero, the CPU at its reset."""
    if not shutil.which(arch.qemu_binary):
        pytest.skip(f"apt-get install {arch.qemu_packages.apt}")
    argv = [arch.qemu_binary, "-M", arch.machine, "-cpu", arch.cpu, "-nodefaults", "-S"]
    argv += ["-display", "none", "-monitor", "stdio"]
    shown = run(argv, stdin=b"info registers\nquit\n", timeout_s=60, check=False).stdout
    assert program_counter(shown, arch) is not None, shown
    if arch.spin:
        counter = re.search(arch.spin.register, shown)
        assert counter is not None, shown
        assert int(counter[1], 16) == 0


# All rows


def test_every_family_has_rows_and_every_row_is_of_one() -> None:
    files = {path.stem for path in FAMILIES.glob("*.py")} - {"__init__", "base", "registry"}
    rows = [
        row
        for family in sorted(files)
        for row in importlib.import_module(f"pytest_kernelvm.arch.{family}").ROWS
    ]
    assert rows == list(ARCHES.values())
    assert len({row.name for row in rows}) == len(rows) == len(ARCHES)


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_what_a_row_names_is_there(arch: Arch) -> None:
    package = FAMILIES.parent
    patches = [arch.cookie.patch] if arch.cookie else []
    if arch.first_stage:
        patches += [arch.first_stage.tree_patch, arch.first_stage.kexec_tree_patch]
        assert (package / "guest/c" / arch.first_stage.source).is_file()
    for patch in patches:
        assert (package / "kernel/patches" / f"{patch}.patch").is_file()
    assert bool(arch.channel) == bool(arch.channel_argv)
    assert arch.for_tests.compressed_image in ("", *arch.images)


def test_packages_have_a_name_for_each_package_system() -> None:
    assert {each.name for each in fields(Packages)} == set(SYSTEMS)
