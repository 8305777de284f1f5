"""What the machine has and lacks for building and booting the kernels of some cells."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.model import KernelConfig, VmConfig
from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.guest.root_image import TOOLS
from pytest_kernelvm.kernel.source.source import DEBIAN_SOURCES
from pytest_kernelvm.process import ADMIN_DIRECTORIES, run
from pytest_kernelvm.toolchain.compiler import llvm_suffix
from pytest_kernelvm.toolchain.image_tools import IMAGE_TOOLS

System = Literal["apt", "dnf", "pacman", "nix", "brew"]
SYSTEMS: tuple[System, ...] = get_args(System)

# Those may be where their users do not have them in PATH.
_ADMIN_PROGRAMS = ("depmod", "mkfs.jffs2", "mke2fs")
_VERSION_TIMEOUT_S = 5.0

# These switch everything off, so that only what a fragment names is compiled.
_NARROW_BASES = ("allnoconfig", "tinyconfig")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the machine must or may have, and what was found.

    name: a program, a header or a package. path: where it is, None if it is missing.
    version: None if it is missing or does not tell. minimum: the oldest that does, empty for any.
    reason: what it is needed for. cells: ids of the cells that need it.
    required: whether those cells are impossible without it.
    packages: what to install, by package system. notes: what to do where no package will do.
    """

    name: str
    path: Path | None
    version: str | None
    minimum: str
    reason: str
    cells: tuple[str, ...]
    required: bool
    packages: Mapping[System, tuple[str, ...]]
    notes: Mapping[System, str]

    @property
    def outdated(self) -> bool:
        """Whether it is here, but older than the minimum."""
        if self.path is None or self.version is None:
            return False
        return _numbers(self.version) < _numbers(self.minimum)

    @property
    def satisfied(self) -> bool:
        """Whether it is here and new enough."""
        return self.path is not None and not self.outdated


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    path: Path | None = None
    version: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Need:
    name: str
    look: Callable[[], _Seen]
    reason: str
    cells: tuple[str, ...]
    packages: Mapping[System, tuple[str, ...]]
    minimum: str = ""
    required: bool = True
    notes: Mapping[System, str]

    def found(self) -> Finding:
        seen = self.look()
        return Finding(
            name=self.name,
            path=seen.path,
            version=seen.version,
            minimum=self.minimum,
            reason=self.reason,
            cells=self.cells,
            required=self.required,
            packages=self.packages,
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Program:
    """A row of the table below.

    packages: one name for all systems, or one each. flag: asks for the version, empty not to ask.
    """

    name: str
    reason: str
    packages: tuple[str, ...]
    flag: str = "--version"
    minimum: str = ""


# Minima: Documentation/process/changes.rst of 6.12; setpriv has --pdeathsig since util-linux 2.33.
# Packages are in the order of SYSTEMS. The list was found by building 6.1 and 6.12 for mips and
# arm64 on a minimal Debian 12, where the last four are always there.
_BUILD_PROGRAMS = (
    _Program(
        name="setpriv",
        reason="ends child processes when we end",
        minimum="2.33",
        packages=("util-linux",),
    ),
    _Program(
        name="make",
        reason="builds kernels",
        minimum="4.0",
        packages=("make", "make", "make", "gnumake", "make"),
    ),
    _Program(
        name="gcc",
        reason="compiles the kernel's own build tools",
        flag="-dumpfullversion",
        minimum="5.1",
        packages=("gcc",),
    ),
    _Program(
        name="flex",
        reason="generates the Kconfig and device tree parsers",
        minimum="2.5.35",
        packages=("flex",),
    ),
    _Program(
        name="bison",
        reason="generates the Kconfig and device tree parsers",
        minimum="2.0",
        packages=("bison",),
    ),
    _Program(
        name="bc",
        reason="computes the kernel's time constants",
        packages=("bc",),
    ),
    _Program(
        name="depmod",
        reason="writes modules.dep in `make modules_install`",
        packages=("kmod",),
    ),
    _Program(
        name="patch",
        reason="applies a vm-config's patches",
        packages=("patch", "patch", "patch", "gnupatch", "gpatch"),
    ),
    _Program(
        name="tar",
        reason="unpacks kernel source",
        minimum="1.28",
        packages=("tar", "tar", "tar", "gnutar", "gnu-tar"),
    ),
    _Program(
        name="xz",
        reason="unpacks kernel source",
        packages=("xz-utils", "xz", "xz", "xz", "xz"),
    ),
    _Program(
        name="awk",
        reason="generates sources in kernel builds",
        flag="",
        packages=("mawk", "gawk", "gawk", "gawk", "gawk"),
    ),
    _Program(
        name="cmp",
        reason="spares kernel builds what has not changed",
        flag="",
        packages=("diffutils",),
    ),
    _Program(
        name="find",
        reason="collects files in kernel builds",
        flag="",
        packages=("findutils",),
    ),
    _Program(
        name="gzip",
        reason="compresses /proc/config.gz and images",
        flag="",
        packages=("gzip",),
    ),
)

# What makes the images of root file systems, by kind.
_IMAGE_PROGRAMS = {
    kind: _Program(
        name=tool.program,
        reason=f"makes root file systems ({kind})",
        packages=tool.packages,
        flag=tool.version_flag,
    )
    for kind, tool in TOOLS.items()
}

# What the programs of an architecture are called outside Debian, whose names are in arch/.
_NIX_CROSS = "pkgsCross.{}.buildPackages.gcc"
_ARCH_PROGRAMS: dict[str, dict[System, tuple[str, ...]]] = {
    "qemu-system-mips": {
        "dnf": ("qemu-system-mips-core",),
        "pacman": ("qemu-system-mips",),
        "nix": ("qemu",),
        "brew": ("qemu",),
    },
    "qemu-system-mipsel": {
        "dnf": ("qemu-system-mips-core",),
        "pacman": ("qemu-system-mips",),
        "nix": ("qemu",),
        "brew": ("qemu",),
    },
    "qemu-system-aarch64": {
        "dnf": ("qemu-system-aarch64-core",),
        "pacman": ("qemu-system-aarch64",),
        "nix": ("qemu",),
        "brew": ("qemu",),
    },
    "mips-linux-gnu-gcc": {"nix": (_NIX_CROSS.format("mips-linux-gnu"),)},
    "mipsel-linux-gnu-gcc": {"nix": (_NIX_CROSS.format("mipsel-linux-gnu"),)},
    "aarch64-linux-gnu-gcc": {
        "dnf": ("gcc-aarch64-linux-gnu",),
        "pacman": ("aarch64-linux-gnu-gcc",),
        "nix": (_NIX_CROSS.format("aarch64-multiplatform"),),
    },
}

_COMMANDS: dict[System, tuple[str, ...]] = {
    "apt": ("apt-get", "install", "--no-install-recommends"),
    "dnf": ("dnf", "install", "--setopt=install_weak_deps=False"),
    "pacman": ("pacman", "-S", "--needed"),
    "nix": ("nix-shell", "-p"),
    "brew": ("brew", "install"),
}
_NEED_ROOT: tuple[System, ...] = ("apt", "dnf", "pacman")
_LINUX_ONLY: dict[System, str] = {
    "brew": "kernelvm works on Linux only; on macOS, work inside a Linux VM or container"
}

# ID and ID_LIKE of os-release(5).
_SYSTEM_OF_OS: dict[str, System] = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "rhel": "dnf",
    "centos": "dnf",
    "arch": "pacman",
    "nixos": "nix",
}
_SYSTEM_PROGRAMS: dict[System, str] = {
    "apt": "apt-get",
    "dnf": "dnf",
    "pacman": "pacman",
    "nix": "nix-shell",
    "brew": "brew",
}


def examine(
    cells: Sequence[VmConfig], *, debian_sources: Path = DEBIAN_SOURCES
) -> tuple[Finding, ...]:
    """Look for all that some cells need, from the interpreter to the kernels' source.

    debian_sources: where linux-source packages put their tarballs.
    Returns one finding a thing, found or not.
    """
    needs = (
        *_general_needs(cells),
        *_arch_needs(cells),
        *_source_needs(cells, debian_sources),
        *_choice_needs(cells),
        *_optional_needs(cells),
    )
    # Each look is mostly a wait for `PROGRAM --version`.
    with ThreadPoolExecutor(max_workers=8) as pool:
        return tuple(pool.map(_Need.found, needs))


def missing_packages(findings: Iterable[Finding], system: System) -> tuple[str, ...]:
    """Return the packages of one system that bring what is required and not here."""
    return _packages((f for f in findings if f.required and not f.satisfied), system)


def install_command(
    findings: Iterable[Finding], system: System, *, everything: bool = False
) -> str:
    """Return the command that installs what is required and not here, empty if there is nothing.

    everything: name all that is required, here or not: for another machine.
    """
    findings = tuple(findings)
    packages = (
        _packages((f for f in findings if f.required), system)
        if everything
        else missing_packages(findings, system)
    )
    if not packages:
        return ""
    sudo = ("sudo",) if system in _NEED_ROOT and os.geteuid() != 0 else ()
    return shlex.join([*sudo, *_COMMANDS[system], *packages])


def notes(
    findings: Iterable[Finding], system: System, *, everything: bool = False
) -> tuple[str, ...]:
    """Return what a system's packages do not solve and what to do instead, one sentence each.

    everything: as in install_command.
    """
    wanted = [f for f in findings if f.required and (everything or not f.satisfied)]
    general = [_LINUX_ONLY[system]] if wanted and system in _LINUX_ONLY else []
    special = [f.notes[system] for f in wanted if system in f.notes]
    return tuple(dict.fromkeys([*general, *special]))


def detected_system(os_release: Path = Path("/etc/os-release")) -> System | None:
    """Return this machine's package system, None if it is none that we know.

    os_release: the file that names the distribution, see os-release(5).
    """
    for name in _os_names(os_release):
        if name in _SYSTEM_OF_OS:
            return _SYSTEM_OF_OS[name]
    return next((s for s, program in _SYSTEM_PROGRAMS.items() if shutil.which(program)), None)


def rendered(
    findings: Sequence[Finding], *, system: System | None = None, all_systems: bool = False
) -> str:
    """Return the findings as a table for people, and what to do about what is missing.

    system: whose command to show, by default this machine's.
    all_systems: show, for every package system, what it takes to start from nothing.
    """
    lines = _table(findings)
    system = system or detected_system()
    missing = [f for f in findings if f.required and not f.satisfied]
    lines.append("")
    if missing:
        lines.append(f"required and not here: {', '.join(f.name for f in missing)}")
        for known in (system,) if system else SYSTEMS:
            lines += _advice(findings, known, everything=False)
    else:
        lines.append("everything required is here")
    if all_systems:
        for known in SYSTEMS:
            lines += ["", f"{known}, from nothing:", *_advice(findings, known, everything=True)]
    return "\n".join(lines)


def _advice(findings: Sequence[Finding], system: System, *, everything: bool) -> list[str]:
    command = install_command(findings, system, everything=everything)
    lines = [f"  {command}"] if command else []
    return lines + [f"  note: {note}" for note in notes(findings, system, everything=everything)]


def _table(findings: Sequence[Finding]) -> list[str]:
    every = {cell for f in findings for cell in f.cells}
    rows = [(_mark(f), f.name, _state(f), _about(f, every)) for f in findings]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (1, 2)]
    return [
        f"{mark} {name:<{widths[0]}}  {state:<{widths[1]}}  {about}".rstrip()
        for mark, name, state, about in rows
    ]


def _mark(finding: Finding) -> str:
    if finding.satisfied:
        return "✓"
    return "✗" if finding.required else "·"


def _state(finding: Finding) -> str:
    if finding.path is None:
        return "missing" if finding.required else "missing, optional"
    if finding.outdated:
        return f"{finding.version}, needs {finding.minimum}"
    return finding.version or ""


def _about(finding: Finding, every: set[str]) -> str:
    if finding.satisfied:
        return str(finding.path)
    some = finding.cells and set(finding.cells) != every
    whom = f" (for {', '.join(finding.cells)})" if some else ""
    return f"{finding.reason}{whom}"


def _packages(findings: Iterable[Finding], system: System) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for f in findings for name in f.packages.get(system, ())))


def _general_needs(cells: Sequence[VmConfig]) -> tuple[_Need, ...]:
    ids = tuple(cell.id for cell in cells)
    python = _Need(
        name="python",
        look=lambda: _Seen(path=Path(sys.executable), version=platform.python_version()),
        reason="runs all this",
        cells=ids,
        minimum="3.11",
        packages=_row("python3", "python3", "python", "python3", "python"),
        notes={},
    )
    headers = _Need(
        name="libc headers",
        look=partial(_header, "sys/types.h"),
        reason="compile the kernel's own build tools",
        cells=ids,
        packages=_row("libc6-dev", "glibc-devel", "glibc", "gcc", "glibc"),
        notes={},
    )
    programs = [_program_need(program, ids) for program in _BUILD_PROGRAMS]
    wide = tuple(cell.id for cell in cells if cell.kernel.base not in _NARROW_BASES)
    return (python, *programs, headers, *_wide_needs(wide))


def _wide_needs(wide: tuple[str, ...]) -> tuple[_Need, ...]:
    """What kernels with certificates or assembler in Perl need: hardly the narrow ones."""
    openssl = _Need(
        name="openssl headers",
        look=partial(_header, "openssl/bio.h"),
        reason="build kernels with trusted keys (CFG80211, MODULE_SIG)",
        cells=wide,
        required=bool(wide),
        packages=_row("libssl-dev", "openssl-devel", "openssl", "openssl", "openssl@3"),
        notes={},
    )
    perl = _Need(
        name="perl",
        look=partial(_program, "perl", ("-e", 'printf "%vd", $^V')),
        reason="generates crypto code and object identifiers of kernels that have them",
        cells=wide,
        required=bool(wide),
        packages=_row("perl"),
        notes={},
    )
    return openssl, perl


def _arch_needs(cells: Sequence[VmConfig]) -> Iterable[_Need]:
    for arch in {cell.arch.name: cell.arch for cell in cells}.values():
        ids = tuple(cell.id for cell in cells if cell.arch.name == arch.name)
        compiler = f"{arch.toolchain_prefix}gcc"
        yield _Need(
            name=compiler,
            look=partial(_program, compiler, ("-dumpfullversion",)),
            reason=f"compiles {arch.name} kernels and the agent",
            cells=ids,
            minimum="5.1",
            packages=_compiler_packages(arch),
            notes=_compiler_notes(arch),
        )
        yield _Need(
            name=arch.qemu_binary,
            look=partial(_program, arch.qemu_binary, ("--version",)),
            reason=f"boots {arch.name} kernels",
            cells=ids,
            minimum="7.0",
            packages={"apt": arch.debian_packages[1:], **_ARCH_PROGRAMS.get(arch.qemu_binary, {})},
            notes={},
        )


def _compiler_packages(arch: Arch) -> Mapping[System, tuple[str, ...]]:
    # On the same architecture Debian's plain gcc also has the prefixed name, and no cross package.
    native = platform.machine() == arch.uname and sys.byteorder == arch.endianness
    apt = ("gcc",) if native else arch.debian_packages[:1]
    return {"apt": apt, **_ARCH_PROGRAMS.get(f"{arch.toolchain_prefix}gcc", {})}


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


def _source_needs(cells: Sequence[VmConfig], debian_sources: Path) -> Iterable[_Need]:
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
        yield _Need(
            name=package,
            look=partial(_debian_source, package, debian_sources),
            reason="kernel source",
            cells=tuple(ids),
            packages={"apt": (package,)},
            notes={system: instead for system in SYSTEMS if system != "apt"},
        )
    for path, ids in files.items():
        yield _Need(
            name=path,
            look=partial(_file, Path(path)),
            reason="kernel source, named by the vm-config",
            cells=tuple(ids),
            packages={},
            notes=dict.fromkeys(SYSTEMS, f"put kernel source at {path}"),
        )


def _choice_needs(cells: Sequence[VmConfig]) -> Iterable[_Need]:
    """Programs that only some sources, compilers and images want."""
    users: dict[_Program, list[str]] = {}
    for cell in cells:
        for program in _chosen_programs(cell.kernel):
            users.setdefault(program, []).append(cell.id)
    for program, ids in users.items():
        yield _program_need(program, tuple(ids))


def _chosen_programs(kernel: KernelConfig) -> Iterable[_Program]:
    if kernel.llvm:
        suffix = llvm_suffix(kernel.llvm)
        for name, package in (("clang", "clang"), ("ld.lld", "lld"), ("llvm-ar", "llvm")):
            yield _Program(
                name=f"{name}{suffix}",
                reason="compiles and links kernels with LLVM in their vm-config",
                # Others than Debian have one version of it.
                packages=(f"{package}{suffix}", package, package, package, package),
            )
    if kernel.source.kind == "git":
        yield _Program(name="git", reason="fetches kernel source", packages=("git",))
    if kernel.source.kind == "prebuilt" and kernel.source.value.endswith(".rpm"):
        yield _Program(
            name="bsdtar",
            reason="unpacks .rpm files",
            packages=("libarchive-tools", "bsdtar", "libarchive", "libarchive", "libarchive"),
        )
    for image in kernel.images:
        if image in IMAGE_TOOLS:
            tool = IMAGE_TOOLS[image]
            yield _Program(
                name=tool.program,
                reason=f"makes {image}",
                flag=tool.version_flag,
                packages=tool.packages,
            )


def _optional_needs(cells: Sequence[VmConfig]) -> Iterable[_Need]:
    ids = tuple(cell.id for cell in cells)
    # Optional: whoever reads this has a virtual environment or needs none.
    yield _Need(
        name="python's ensurepip",
        look=_ensurepip,
        reason="makes virtual environments, as the Makefile does",
        cells=ids,
        required=False,
        packages=_row("python3-venv", "python3", "python", "python3", "python"),
        notes={},
    )
    ccache = _Program(
        name="ccache",
        reason="makes a second build of similar kernels cheap",
        packages=("ccache",),
    )
    # Debian's plain gdb knows its own architecture only; the others' knows all.
    gdb = _Program(
        name="gdb-multiarch" if shutil.which("apt-get") else "gdb",
        reason="debugs a guest's kernel",
        packages=("gdb-multiarch", "gdb", "gdb", "gdb", "gdb"),
    )
    for program in (ccache, gdb):
        yield _program_need(program, ids, required=False)
    for kind, program in _IMAGE_PROGRAMS.items():
        users = tuple(cell.id for cell in cells if cell.root and cell.root.kind == kind)
        yield _program_need(program, users or ids, required=bool(users))


def _program_need(program: _Program, cells: tuple[str, ...], *, required: bool = True) -> _Need:
    return _Need(
        name=program.name,
        look=partial(_program, program.name, (program.flag,) if program.flag else ()),
        reason=program.reason,
        cells=cells,
        minimum=program.minimum,
        required=required,
        packages=_row(*program.packages),
        notes={},
    )


def _row(*names: str) -> Mapping[System, tuple[str, ...]]:
    each = names * len(SYSTEMS) if len(names) == 1 else names
    return {system: (name,) for system, name in zip(SYSTEMS, each, strict=True)}


def _program(name: str, version_flags: tuple[str, ...]) -> _Seen:
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *ADMIN_DIRECTORIES])
    path = shutil.which(name, path=places if name in _ADMIN_PROGRAMS else None)
    if path is None:
        return _Seen()
    version = _version_in(_output([path, *version_flags])) if version_flags else None
    return _Seen(path=Path(path), version=version)


def _header(name: str) -> _Seen:
    """Ask the compiler, who knows best where headers are."""
    gcc = shutil.which("gcc")
    text = _output([gcc, "-M", "-x", "c", "-"], f"#include <{name}>\n") if gcc else ""
    found = [word for word in text.split() if word.endswith(f"/{name}")]
    if not gcc:
        root = Path("/usr/include")
        found = [str(path) for path in (root / name, *root.glob(f"*/{name}")) if path.exists()]
    return _Seen(path=Path(found[0])) if found else _Seen()


def _debian_source(package: str, directory: Path) -> _Seen:
    tarball = next(iter(sorted(directory.glob(f"{package}.tar.*"))), None)
    query = shutil.which("dpkg-query")
    if tarball is None or query is None:
        return _Seen(path=tarball)
    said = _output([query, "--show", "--showformat=${Version}", package])
    return _Seen(path=tarball, version=_version_in(said))


def _file(path: Path) -> _Seen:
    return _Seen(path=path if path.exists() else None)


def _ensurepip() -> _Seen:
    spec = importlib.util.find_spec("ensurepip")
    return _Seen(path=Path(spec.origin)) if spec and spec.origin else _Seen()


def _output(argv: Sequence[str], stdin: str = "") -> str:
    """What a program prints, empty if it fails: then the machine is examined all the same."""
    try:
        done = run(argv, timeout_s=_VERSION_TIMEOUT_S, check=False, stdin=stdin.encode())
    except (KernelvmError, OSError):
        return ""
    return done.stdout if done.status == 0 else ""


def _version_in(text: str) -> str | None:
    # In parentheses stands who packaged it, with digits of its own.
    first = re.sub(r"\(.*?\)", "", text.partition("\n")[0])
    found = re.search(r"\b\d+(?:\.\d+)*", first)
    return found[0] if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _os_names(os_release: Path) -> list[str]:
    try:
        text = os_release.read_text()
    except OSError:
        return []
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return [
        name
        for key in ("ID", "ID_LIKE")
        for word in shlex.split(values.get(key, ""))
        for name in word.split()
    ]
