"""The guest's C programs, compiled with a kernel's own nolibc and headers."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BuildFailed, Evidence
from pytest_kernelvm.guest.protocol import SHARED_CONSOLE
from pytest_kernelvm.kernel.build.build import Kernel
from pytest_kernelvm.process import failure, run
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.intact import require_intact_below
from pytest_kernelvm.store.kinds import GUEST_PROGRAMS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.toolchain.compiler import compiler_version

SOURCES = Path(__file__).parent / "c"
# Programs that use of nolibc only what is in start.c.
SMALL = ("modprobe", "preinit", "activate")
COMPILE_TIMEOUT_S = 120.0

# Static, without a C library, without what only a debugger or an unwinder needs.
CFLAGS = (
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Os",
    "-static",
    "-nostdlib",
    "-nostdinc",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    "-fno-move-loop-invariants",
    "-fno-ident",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    "-Wl,-z,norelro",
    "-s",
)

# modprobe has the few libc functions that it needs; its memcpy() must not become a call of itself.
# The other flags save 170 of 10,280 bytes on mips: all variables are addressed from one anchor, and
# passes that trade size for speed in spite of -Os are off.
FREESTANDING = (
    "-ffreestanding",
    "-fno-tree-loop-distribute-patterns",
    "-fno-data-sections",
    "-fsection-anchors",
    "-fno-expensive-optimizations",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Abi:
    """The guest's numbers, as the kernel's own headers give them; they differ by architecture.

    Attributes:
        syscalls: Numbers of system calls, by name without __NR_.
        errnos: Error numbers, by name.
        open_flags: Flags of open(2), by name.
        ioctls: Request numbers of ioctl(2), by name.
    """

    syscalls: dict[str, int]
    errnos: dict[str, int]
    open_flags: dict[str, int]
    ioctls: dict[str, int]

    def host_errno(self, number: int) -> int:
        """Return the number that means here what an errno means in the guest.

        Args:
            number: Of the guest's kernel.
        """
        for name, value in self.errnos.items():
            if value == number and hasattr(errno, name):
                return int(getattr(errno, name))
        return number

    def guest_open_flags(self, flags: int) -> int:
        """Return the guest's flags of open(2) for those of Python's `os` module.

        Args:
            flags: Such as os.O_CREAT or os.O_APPEND, joined by |.
        """
        found = flags & os.O_ACCMODE
        for name in _OPEN_FLAGS:
            if flags & getattr(os, name):
                found |= self.open_flags[name]
        return found


# What the host asks of the guest's drivers; a list, as it becomes JSON.
IOCTLS = ["RNDADDENTROPY", "RNDRESEEDCRNG"]

_OPEN_FLAGS = ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY")


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestPrograms:
    """Compiled programs of one kernel.

    Attributes:
        digest: Names what made them.
        agent: The guest's init.
        modprobe: What loads modules where there is no kmod.
        preinit: The init of an initramfs that leads into another root.
        activate: What makes the rest of that root.
        terminal: What runs a program on a terminal.
        abi: The numbers that are used in requests to the agent.
    """

    digest: str
    agent: Path
    modprobe: Path
    preinit: Path
    activate: Path
    terminal: Path
    abi: Abi


def compile_programs(store: Store, kernel: Kernel, *, cpu: str) -> GuestPrograms:
    """Return the programs for a kernel, compiled unless the store has them.

    Raises BuildFailed with the compiler's words, ToolMissing without a compiler.

    Args:
        store: Where they are kept.
        kernel: Whose nolibc and headers are used.
        cpu: The guest's CPU, as in QEMU's -cpu; what it can execute decides how small modprobe is.
    """
    compact = _compact_cflags(kernel.arch, cpu)
    digest = _programs_digest(kernel, compact)

    def make(work: StagingDirectory) -> dict[str, Any]:
        for name in ("agent", "terminal"):
            compile_program(kernel, SOURCES / f"{name}.c", work.entry / name)
        _compile_small(kernel, compact, work)
        numbers = asdict(_abi(kernel))
        (work.entry / "abi.json").write_text(json.dumps(numbers, sort_keys=True))
        return {"kernel": kernel.digest, "arch": kernel.arch.name}

    label = f"the guest's programs for {kernel.release}"
    entry = store.obtain(GUEST_PROGRAMS, digest, make, label=label)
    require_intact_below(entry)
    return GuestPrograms(
        digest=digest,
        agent=entry / "agent",
        modprobe=entry / "modprobe",
        preinit=entry / "preinit",
        activate=entry / "activate",
        terminal=entry / "terminal",
        abi=Abi(**json.loads((entry / "abi.json").read_text())),
    )


def _programs_digest(kernel: Kernel, compact: tuple[str, ...]) -> Digest:
    """Return what names the programs: all that makes them."""
    sources = sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")])
    return digest_of(
        {
            "sources": [file_digest(source) for source in sources],
            "headers": kernel.headers_digest,
            "compiler": compiler_version(kernel.arch),
            "ioctls": IOCTLS,
            "flags": [
                *CFLAGS,
                *FREESTANDING,
                *kernel.arch.agent_cflags,
                *kernel.arch.nolibc_cflags,
                *compact,
                kernel.arch.channel,
            ],
        }
    )


@functools.cache
def _include_flags(arch: Arch, headers: Path) -> tuple[str, ...]:
    compiler = f"{arch.toolchain_prefix}gcc"
    require_intact_below(headers)
    own = run([compiler, "-print-file-name=include"], timeout_s=30).stdout.strip()
    return ("-nostdinc", "-isystem", own, "-isystem", str(headers))


def compile_program(kernel: Kernel, source: Path, program: Path) -> None:
    """Compile a C file with a kernel's nolibc into a small static program for its guests.

    Raises BuildFailed with the compiler's words.

    Args:
        kernel: Whose nolibc and headers are used.
        source: The C file.
        program: Where the program is written to.
    """
    arch = kernel.arch
    flags = [f'-DCHANNEL="/dev/{arch.channel}"', f'-DSHARED_CONSOLE="{SHARED_CONSOLE}"']
    _compile(kernel, source, program, *_nolibc_flags(kernel), *flags)


def _compile_small(kernel: Kernel, compact: tuple[str, ...], work: StagingDirectory) -> None:
    """Compile from two files each: only the first may have instructions that make system calls."""
    start = work.directory / "start.o"
    _compile(kernel, SOURCES / "start.c", start, *_nolibc_flags(kernel), "-c")
    for name in SMALL:
        source, program = SOURCES / f"{name}.c", work.entry / name
        _compile(kernel, source, program, *FREESTANDING, *compact, str(start))


def _compact_cflags(arch: Arch, cpu: str) -> tuple[str, ...]:
    return arch.compact_cflags if cpu.partition(",")[0] in arch.compact_cpus else ()


def _nolibc_flags(kernel: Kernel) -> tuple[str, ...]:
    require_intact_below(kernel.nolibc)
    include = ("-isystem", str(kernel.nolibc), "-include", "nolibc.h")
    return (*include, *kernel.arch.nolibc_cflags)


def _compile(kernel: Kernel, source: Path, output: Path, *flags: str) -> None:
    arch = kernel.arch
    argv = [
        f"{arch.toolchain_prefix}gcc",
        *CFLAGS,
        *_include_flags(arch, kernel.headers),
        *arch.agent_cflags,
        *flags,
        "-o",
        str(output),
        str(source),
        "-lgcc",
    ]
    done = run(argv, timeout_s=COMPILE_TIMEOUT_S, check=False)
    if done.status != 0:
        evidence = failure(done)
        raise BuildFailed(
            f"{source.name} does not compile with the nolibc of {kernel.release}",
            Evidence(excerpt=evidence.excerpt, command=evidence.command, where=(str(source),)),
        )


def _abi(kernel: Kernel) -> Abi:
    """Ask the compiler what the kernel's headers define."""
    compiler = [f"{kernel.arch.toolchain_prefix}gcc", *_include_flags(kernel.arch, kernel.headers)]
    for header in ("asm/unistd.h", "asm/errno.h", "asm/fcntl.h"):
        compiler += ["-include", header]
    compiler += ["-E", "-x", "c", "-"]
    macros = run([*compiler, "-dM"], timeout_s=COMPILE_TIMEOUT_S).stdout
    names = re.findall(r"^#define (__NR_[a-z]\w*|E[A-Z0-9]+|O_[A-Z]+) ", macros, re.MULTILINE)
    lines = "".join(f'"{name}" {name}\n' for name in sorted(names))
    expanded = run([*compiler, "-P"], stdin=lines.encode(), timeout_s=COMPILE_TIMEOUT_S).stdout
    numbers = {
        name: _constant(expression)
        for name, expression in re.findall(r'^"(\w+)"\s+([\w\s()|+]+)$', expanded, re.MULTILINE)
    }
    return Abi(
        syscalls={
            name.removeprefix("__NR_"): number
            for name, number in numbers.items()
            if name.startswith("__NR_")
        },
        errnos={name: number for name, number in numbers.items() if name.startswith("E")},
        open_flags={name: number for name, number in numbers.items() if name.startswith("O_")},
        ioctls=_ioctls(kernel),
    )


def _ioctls(kernel: Kernel) -> dict[str, int]:
    """Ask the compiler for numbers that contain the size of a type, which no preprocessor knows."""
    compiler = [f"{kernel.arch.toolchain_prefix}gcc", *_include_flags(kernel.arch, kernel.headers)]
    compiler += ["-include", "linux/random.h", "-S", "-x", "c", "-o", "-", "-"]
    source = f"const unsigned int numbers[] = {{ {', '.join(IOCTLS)} }};\n"
    assembly = run(compiler, stdin=source.encode(), timeout_s=COMPILE_TIMEOUT_S).stdout
    words = re.findall(r"^\s*\.(?:word|4byte|long)\s+(-?\w+)$", assembly, re.MULTILINE)
    return {name: int(word, 0) & 0xFFFFFFFF for name, word in zip(IOCTLS, words, strict=True)}


def _constant(expression: str) -> int:
    """Return the value of C integers joined by + or |; those that are joined share no bit."""
    terms = re.findall(r"\w+", expression)
    return sum(int(term, 8 if term.startswith("0") and term.isdecimal() else 0) for term in terms)
