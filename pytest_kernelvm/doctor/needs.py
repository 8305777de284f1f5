"""What cells need of the machine."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.doctor.finding import SYSTEMS, Finding, System
from pytest_kernelvm.doctor.probes import (
    ProbeResult,
    probe_debian_source,
    probe_ensurepip,
    probe_file,
    probe_header,
    probe_program,
)
from pytest_kernelvm.doctor.tables import (
    BUILD_PROGRAMS,
    IMAGE_PROGRAMS,
    NARROW_BASES,
    Program,
    known_packages,
    packages_row,
)
from pytest_kernelvm.toolchain.compiler import llvm_suffix
from pytest_kernelvm.toolchain.image_tools import IMAGE_TOOLS


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """One thing that cells need of the machine.

    Attributes:
        name: A program, a header or a package.
        probe: Looks for it.
        reason: What it is needed for.
        cells: The ids of the cells that need it.
        packages: The packages to install, by package system.
        minimum: The oldest version that is new enough; empty if every version is.
        required: Whether those cells cannot be built or booted without it.
        notes: What to do instead, by package system, where no package solves it.
    """

    name: str
    probe: Callable[[], ProbeResult]
    reason: str
    cells: tuple[str, ...]
    packages: Mapping[System, tuple[str, ...]]
    minimum: str = ""
    required: bool = True
    notes: Mapping[System, str]

    def find(self) -> Finding:
        """Look for it and return what was found."""
        result = self.probe()
        return Finding(
            name=self.name,
            path=result.path,
            version=result.version,
            minimum=self.minimum,
            reason=self.reason,
            cells=self.cells,
            required=self.required,
            packages=self.packages,
            notes=self.notes,
        )


def general_needs(cells: Sequence[CellConfig]) -> tuple[Need, ...]:
    """Return what every cell needs, and what all cells with wide configurations need.

    Args:
        cells: The cells of all vm-configs; empty if there are none.
    """
    ids = tuple(cell.id for cell in cells)
    python = Need(
        name="python",
        probe=lambda: ProbeResult(path=Path(sys.executable), version=platform.python_version()),
        reason="runs all this",
        cells=ids,
        minimum="3.11",
        packages=packages_row("python3", "python3", "python", "python3", "python"),
        notes={},
    )
    headers = Need(
        name="libc headers",
        probe=partial(probe_header, "sys/types.h"),
        reason="compile the kernel's own build tools",
        cells=ids,
        packages=packages_row("libc6-dev", "glibc-devel", "glibc", "gcc", "glibc"),
        notes={},
    )
    programs = [_program_need(program, ids) for program in BUILD_PROGRAMS]
    wide = tuple(cell.id for cell in cells if cell.kernel.base not in NARROW_BASES)
    return (python, *programs, headers, *_wide_needs(wide))


def _wide_needs(wide: tuple[str, ...]) -> tuple[Need, ...]:
    """Return what kernels with certificates or generated crypto code need."""
    openssl = Need(
        name="openssl headers",
        probe=partial(probe_header, "openssl/bio.h"),
        reason="build kernels with trusted keys (CFG80211, MODULE_SIG)",
        cells=wide,
        required=bool(wide),
        packages=packages_row("libssl-dev", "openssl-devel", "openssl", "openssl", "openssl@3"),
        notes={},
    )
    perl = Need(
        name="perl",
        probe=partial(probe_program, "perl", ("-e", 'printf "%vd", $^V')),
        reason="generates crypto code and object identifiers of kernels that have them",
        cells=wide,
        required=bool(wide),
        packages=packages_row("perl"),
        notes={},
    )
    return openssl, perl


def arch_needs(cells: Sequence[CellConfig]) -> Iterable[Need]:
    """Yield what the architectures of some cells need: compilers and QEMU.

    Args:
        cells: The cells of all vm-configs; each architecture counts once.
    """
    for arch in {cell.arch.name: cell.arch for cell in cells}.values():
        ids = tuple(cell.id for cell in cells if cell.arch.name == arch.name)
        compiler = f"{arch.toolchain_prefix}gcc"
        yield Need(
            name=compiler,
            probe=partial(probe_program, compiler, ("-dumpfullversion",)),
            reason=f"compiles {arch.name} kernels and the agent",
            cells=ids,
            minimum="5.1",
            packages=_compiler_packages(arch),
            notes=_compiler_notes(arch),
        )
        yield Need(
            name=arch.qemu_binary,
            probe=partial(probe_program, arch.qemu_binary, ("--version",)),
            reason=f"boots {arch.name} kernels",
            cells=ids,
            minimum="7.0",
            packages=known_packages(arch.qemu_packages),
            notes={},
        )


def _compiler_packages(arch: Arch) -> Mapping[System, tuple[str, ...]]:
    # Debian's cross compiler for the host's own architecture is gcc, which has both names.
    native = platform.machine() == arch.uname and sys.byteorder == arch.endianness
    packages = arch.compiler_packages
    return known_packages(replace(packages, apt="gcc") if native else packages)


def _compiler_notes(arch: Arch) -> Mapping[System, str]:
    prefix = arch.toolchain_prefix
    packages = _compiler_packages(arch)
    out: dict[System, str] = {
        system: f"{system} has no package of {prefix}gcc; put a GCC with this prefix, and its "
        "binutils, into PATH (crosstool-NG makes one)"
        for system in SYSTEMS
        if system not in packages
    }
    if "nix" in packages:
        vendor = prefix.replace("-linux-", "-unknown-linux-")
        out["nix"] = f"Nix calls the tools {vendor}*; put links named {prefix}* into PATH"
    return out


def source_needs(cells: Sequence[CellConfig], debian_sources: Path) -> Iterable[Need]:
    """Yield what the sources of some cells need.

    Args:
        cells: The cells that are to be built.
        debian_sources: The directory where Debian's linux-source packages put their tarballs.

    Yields:
        A need for each package or file.
    """
    packages: dict[str, list[str]] = {}
    files: dict[str, list[str]] = {}
    for cell in cells:
        source = cell.kernel.source
        if source.kind == "debian" and not source.suite:
            packages.setdefault(source.value, []).append(cell.id)
        for path in source.paths:
            files.setdefault(path, []).append(cell.id)
    for package, ids in packages.items():
        instead = f"{package} is a package of Debian; give the vm-config a kernel.source.tarball"
        yield Need(
            name=package,
            probe=partial(probe_debian_source, package, debian_sources),
            reason="kernel source",
            cells=tuple(ids),
            packages={"apt": (package,)},
            notes={system: instead for system in SYSTEMS if system != "apt"},
        )
    for path, ids in files.items():
        yield Need(
            name=path,
            probe=partial(probe_file, Path(path)),
            reason="kernel source, named by the vm-config",
            cells=tuple(ids),
            packages={},
            notes=dict.fromkeys(SYSTEMS, f"put kernel source at {path}"),
        )


def choice_needs(cells: Sequence[CellConfig]) -> Iterable[Need]:
    """Yield the programs that only some sources, compilers and images need.

    Args:
        cells: The cells of all vm-configs.
    """
    users: dict[Program, list[str]] = {}
    for cell in cells:
        for program in _chosen_programs(cell.kernel):
            users.setdefault(program, []).append(cell.id)
    for program, ids in users.items():
        yield _program_need(program, tuple(ids))


def _chosen_programs(kernel: KernelConfig) -> Iterable[Program]:
    if kernel.llvm:
        suffix = llvm_suffix(kernel.llvm)
        for name, package in (("clang", "clang"), ("ld.lld", "lld"), ("llvm-ar", "llvm")):
            yield Program(
                name=f"{name}{suffix}",
                reason="compiles and links kernels with LLVM in their vm-config",
                # Only Debian has several versions of it.
                packages=(f"{package}{suffix}", package, package, package, package),
            )
    if kernel.source.kind == "git":
        yield Program(name="git", reason="fetches kernel source", packages=("git",))
    if kernel.source.kind == "prebuilt" and kernel.source.value.endswith(".rpm"):
        yield Program(
            name="bsdtar",
            reason="unpacks .rpm files",
            packages=("libarchive-tools", "bsdtar", "libarchive", "libarchive", "libarchive"),
        )
    for image in kernel.images:
        if image in IMAGE_TOOLS:
            tool = IMAGE_TOOLS[image]
            yield Program(
                name=tool.program,
                reason=f"makes {image}",
                flag=tool.version_flag,
                packages=tool.packages,
            )


def optional_needs(cells: Sequence[CellConfig]) -> Iterable[Need]:
    """Yield what is useful and may be missing.

    Args:
        cells: The cells of all vm-configs.
    """
    ids = tuple(cell.id for cell in cells)
    # Optional, because this program runs: there is a virtual environment, or none is needed.
    yield Need(
        name="python's ensurepip",
        probe=probe_ensurepip,
        reason="makes virtual environments, as the Makefile does",
        cells=ids,
        required=False,
        packages=packages_row("python3-venv", "python3", "python", "python3", "python"),
        notes={},
    )
    ccache = Program(
        name="ccache",
        reason="makes a second build of similar kernels cheap",
        packages=("ccache",),
    )
    # Debian's package gdb supports the host's architecture only; in other systems it supports all.
    gdb = Program(
        name="gdb-multiarch" if shutil.which("apt-get") else "gdb",
        reason="debugs a guest's kernel",
        packages=("gdb-multiarch", "gdb", "gdb", "gdb", "gdb"),
    )
    for program in (ccache, gdb):
        yield _program_need(program, ids, required=False)
    for kind, program in IMAGE_PROGRAMS.items():
        users = tuple(cell.id for cell in cells if cell.root and cell.root.kind == kind)
        yield _program_need(program, users or ids, required=bool(users))


def _program_need(program: Program, cells: tuple[str, ...], *, required: bool = True) -> Need:
    return Need(
        name=program.name,
        probe=partial(probe_program, program.name, (program.flag,) if program.flag else ()),
        reason=program.reason,
        cells=cells,
        minimum=program.minimum,
        required=required,
        packages=packages_row(*program.packages),
        notes={},
    )
