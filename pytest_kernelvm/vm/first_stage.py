"""A bootloader of ours for MIPS kernels: what QEMU's cannot be told, it hands over.

Two ways to be given a kernel, as arch/mips/kernel/head.S leaves the registers to the board's code:

    YAMON's  a0 = argc, a1 = argv, a2 = environment (names and values in turn), a3 = memory size
             (arch/mips/fw/lib/cmdline.c)
    UHI      a0 = -2, a1 = device tree, a2 = a3 = 0 (arch/mips/include/asm/bootinfo.h, get_fdt())
"""

from __future__ import annotations

import functools
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.arch import Arch, FirstStage
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.process import run

SOURCES = Path(__file__).parents[1] / "guest"
ASSEMBLER_TIMEOUT_S = 60.0
UHI = 0xFFFFFFFE
# arch/mips/include/asm/setup.h
COMMAND_LINE_SIZE = 4096
PAGE_BYTES = 4096
TREE_ALIGN_BYTES = 8

_PT_LOAD = 1
_ORDERS = {"little": "<", "big": ">"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Bytes at a physical address, in bytes from 0."""

    address: int
    content: bytes

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + len(self.content)


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A kernel as it lies in memory. entry: the virtual address where it begins."""

    loaded: Loaded
    entry: int


def read_image(path: Path, arch: Arch) -> Image:
    """Return what an ELF kernel has to have in memory, in one piece.

    Raises BadInput if it is no 32-bit ELF file with segments.
    """
    order = _ORDERS[arch.endianness]
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x01":
        raise BadInput(f"{path} is no 32-bit ELF file", Evidence(where=(str(path),)))
    entry, table = struct.unpack_from(f"{order}II", data, 24)
    size, count = struct.unpack_from(f"{order}HH", data, 42)
    loads = []
    for number in range(count):
        kind, at, _vaddr, address, in_file, in_memory = struct.unpack_from(
            f"{order}6I", data, table + size * number
        )
        if kind == _PT_LOAD:
            loads.append((address & ~_virtual(arch), data[at : at + in_file], in_memory))
    start = min(address for address, _content, _size in loads)
    memory = bytearray(max(address + length for address, _content, length in loads) - start)
    for address, content, _size in loads:
        memory[address - start : address - start + len(content)] = content
    return Image(loaded=Loaded(address=start, content=bytes(memory)), entry=entry)


def with_entry(kernel: bytes, entry: int, arch: Arch) -> bytes:
    """Return an ELF kernel that begins elsewhere, at a virtual address."""
    changed = bytearray(kernel)
    struct.pack_into(f"{_ORDERS[arch.endianness]}I", changed, 24, entry)
    return bytes(changed)


def by_yamon(arch: Arch, entry: int, *, cmdline: str, memory_bytes: int) -> Loaded:
    """Return a first stage that gives the kernel a command line as YAMON does.

    entry: the kernel's, virtual. Raises BadInput for a line that the kernel would cut off.
    """
    line = cmdline.encode()
    if len(line) >= COMMAND_LINE_SIZE:
        raise BadInput(
            f"the command line has {len(line)} bytes",
            Evidence(expected=f"at most {COMMAND_LINE_SIZE - 1}"),
        )
    memory = f"{memory_bytes}".encode()
    return _stage(
        arch,
        entry,
        arguments=(b"kernel", line),
        environment=(b"memsize", memory, b"ememsize", memory, b"modetty0", b"38400n8r"),
        memory_bytes=memory_bytes,
    )


def by_uhi(arch: Arch, entry: int, tree: bytes) -> Loaded:
    """Return a first stage that gives the kernel a device tree. entry: the kernel's, virtual."""
    stage = _first_stage(arch)
    code = _code(arch)
    at = -(-(len(code) + 20) // TREE_ALIGN_BYTES) * TREE_ALIGN_BYTES
    words = (entry, UHI, _virtual(arch) + stage.address + at, 0, 0)
    head = code + struct.pack(f"{_ORDERS[arch.endianness]}5I", *words)
    return Loaded(address=stage.address, content=head.ljust(at, b"\0") + tree)


def entry_of(arch: Arch) -> int:
    """Return the virtual address where the first stage begins."""
    return _virtual(arch) + _first_stage(arch).address


def _stage(
    arch: Arch,
    entry: int,
    *,
    arguments: tuple[bytes, ...],
    environment: tuple[bytes, ...],
    memory_bytes: int,
) -> Loaded:
    order = _ORDERS[arch.endianness]
    code = _code(arch)
    at = entry_of(arch) + len(code) + 20
    vectors_bytes = 4 * (len(arguments) + len(environment) + 2)
    texts = b""
    pointers = []
    for text in (*arguments, *environment):
        pointers.append(at + vectors_bytes + len(texts))
        texts += text + b"\0"
    pointers.insert(len(arguments), 0)
    pointers.append(0)
    words = (entry, len(arguments), at, at + 4 * (len(arguments) + 1), memory_bytes)
    content = code + struct.pack(f"{order}5I", *words)
    content += struct.pack(f"{order}{len(pointers)}I", *pointers) + texts
    return Loaded(address=_first_stage(arch).address, content=content)


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
