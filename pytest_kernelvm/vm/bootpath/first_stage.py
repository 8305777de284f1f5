"""A bootloader of ours for MIPS kernels: it passes what QEMU's bootloader cannot pass.

Two ways to be given a kernel, as arch/mips/kernel/head.S leaves the registers to the board's code:

    YAMON's  a0 = argc, a1 = argv, a2 = environment (names and values in turn), a3 = memory size
             (arch/mips/fw/lib/cmdline.c)
    UHI      a0 = -2, a1 = device tree, a2 = a3 = 0 (arch/mips/include/asm/bootinfo.h, get_fdt())
"""

from __future__ import annotations

import functools
import struct
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.arch.base import Arch, FirstStage, struct_order
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.elf import ENTRY_OFFSET, ElfFile
from pytest_kernelvm.process import run
from pytest_kernelvm.vm.qemu.argv import STAGE, Boot, PlacedFile

SOURCES = Path(__file__).parents[2] / "guest" / "c"
ASSEMBLER_TIMEOUT_S = 60.0
KERNEL = "kernel"
UHI = 0xFFFFFFFE
ALIGN_BYTES = 8
# The words of the code that are filled in lie behind a branch and its delay slot.
WORDS_AT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBytes:
    """Bytes at a physical address.

    Attributes:
        address: That of the first byte, from 0.
        content: The bytes.
    """

    address: int
    content: bytes

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + len(self.content)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelInMemory:
    """A kernel as it lies in memory.

    Attributes:
        loaded: Its bytes.
        entry: The virtual address where it begins.
    """

    loaded: LoadedBytes
    entry: int


def read_image(path: Path, arch: Arch) -> KernelInMemory:
    """Return what an ELF kernel has in memory, in one piece.

    Args:
        path: A 32-bit ELF file.
        arch: Says the byte order and where memory is mapped.

    Raises:
        BadInput: It is no 32-bit ELF file.
    """
    image = ElfFile(path.read_bytes(), str(path))
    loads = [
        (segment.address & ~_virtual(arch), segment.content, segment.memory_bytes)
        for segment in image.load_segments()
    ]
    if image.kind.bits != 32 or not loads:
        raise BadInput(f"{path} is no 32-bit ELF file", Evidence(where=(str(path),)))
    start = min(address for address, _content, _size in loads)
    memory = bytearray(max(address + length for address, _content, length in loads) - start)
    for address, content, _size in loads:
        memory[address - start : address - start + len(content)] = content
    return KernelInMemory(
        loaded=LoadedBytes(address=start, content=bytes(memory)), entry=image.entry
    )


def boot_through(boot: Boot, stage: LoadedBytes, directory: Path) -> Boot:
    """Return what to boot so that QEMU's bootloader enters a first stage, and that the kernel.

    Args:
        boot: What is booted otherwise.
        stage: Of `yamon_stage` or `uhi_stage`.
        directory: Gets the kernel with another entry, and the stage.
    """
    kernel, blob = directory / KERNEL, directory / STAGE
    changed = bytearray(boot.image.read_bytes())
    struct.pack_into(
        f"{struct_order(boot.arch.endianness)}I", changed, ENTRY_OFFSET, stage_entry(boot.arch)
    )
    kernel.write_bytes(changed)
    blob.write_bytes(stage.content)
    placed = PlacedFile(file=blob, address=stage.address)
    return replace(boot, image=kernel, loaded=(*boot.loaded, placed))


def yamon_stage(arch: Arch, entry: int, *, cmdline: str, memory_bytes: int) -> LoadedBytes:
    """Return a first stage that gives the kernel a command line as YAMON does.

    Args:
        arch: The architecture.
        entry: The kernel's virtual entry address.
        cmdline: The command line.
        memory_bytes: How much memory the machine has.

    Raises:
        BadInput: The kernel would cut the command line off.
    """
    line = cmdline.encode("utf-8", "surrogateescape")
    most_bytes = _first_stage(arch).cmdline_bytes
    if len(line) > most_bytes:
        raise BadInput(
            f"the command line has {len(line)} bytes",
            Evidence(expected=f"at most {most_bytes}"),
        )
    arguments = _vector(arch, _behind_code(arch), (b"kernel", line))
    at = _behind_code(arch) + len(arguments)
    words = (entry, 2, _behind_code(arch), at, memory_bytes)
    content = _filled(arch, words) + arguments + _environment(arch, at, memory_bytes)
    return LoadedBytes(address=_first_stage(arch).address, content=content)


def uhi_stage(arch: Arch, entry: int, tree: bytes, *, memory_bytes: int) -> LoadedBytes:
    """Return a first stage that gives the kernel a device tree.

    Unlike UHI it gives an environment too: a kernel that knows nothing of UHI learns from there how
    much memory it has, if no tree says so.

    Args:
        arch: The architecture.
        entry: The kernel's virtual entry address.
        tree: A flat device tree.
        memory_bytes: How much memory the machine has.
    """
    environment = _environment(arch, _behind_code(arch), memory_bytes)
    environment += bytes(-len(environment) % ALIGN_BYTES)
    at = _behind_code(arch)
    words = (entry, UHI, at + len(environment), at, 0)
    content = _filled(arch, words) + environment + tree
    return LoadedBytes(address=_first_stage(arch).address, content=content)


def stage_entry(arch: Arch) -> int:
    """Return the virtual address where the first stage begins."""
    return _virtual(arch) + _first_stage(arch).address


def _environment(arch: Arch, at: int, memory_bytes: int) -> bytes:
    size = f"{memory_bytes}".encode()
    texts = (b"memsize", size, b"ememsize", size, b"modetty0", b"38400n8r")
    return _vector(arch, at, texts)


def _vector(arch: Arch, at: int, texts: tuple[bytes, ...]) -> bytes:
    """Return pointers to texts with a null pointer behind them, then the texts.

    at: the virtual address where it lies.
    """
    pointers = []
    behind = b""
    for text in texts:
        pointers.append(at + 4 * (len(texts) + 1) + len(behind))
        behind += text + b"\0"
    packed = struct.pack(f"{struct_order(arch.endianness)}{len(texts) + 1}I", *pointers, 0)
    return packed + behind + bytes(-len(behind) % 4)


def _behind_code(arch: Arch) -> int:
    return stage_entry(arch) + len(_filled(arch, ()))


def _filled(arch: Arch, words: tuple[int, ...]) -> bytes:
    """Return the machine code with the kernel's entry and a0 to a3."""
    code = _code(arch)
    filled = bytearray(code + bytes(-len(code) % ALIGN_BYTES))
    struct.pack_into(f"{struct_order(arch.endianness)}{len(words)}I", filled, WORDS_AT, *words)
    return bytes(filled)


def _first_stage(arch: Arch) -> FirstStage:
    if not arch.first_stage:
        raise BadInput(f"{arch.name} has no first stage of ours")
    return arch.first_stage


def _virtual(arch: Arch) -> int:
    return _first_stage(arch).virtual


@functools.cache
def _code(arch: Arch) -> bytes:
    """Return the machine code."""
    with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
        made, code = Path(directory, "stage.o"), Path(directory, "stage.bin")
        source = SOURCES / _first_stage(arch).source
        compiler = f"{arch.toolchain_prefix}gcc"
        argv: list[str | Path] = [compiler, *arch.agent_cflags, "-c", "-o", made, source]
        run(argv, timeout_s=ASSEMBLER_TIMEOUT_S)
        copier: list[str | Path] = [f"{arch.toolchain_prefix}objcopy", "-O", "binary"]
        run([*copier, "-j", ".text", made, code], timeout_s=ASSEMBLER_TIMEOUT_S)
        return code.read_bytes()
