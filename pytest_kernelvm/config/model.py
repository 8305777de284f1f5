"""vm-configs/*.yaml: one file a machine, expanded into cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.roots import Root
from pytest_kernelvm.config.services import Service
from pytest_kernelvm.config.typed_yaml import Expected, Flag, Placed, Text
from pytest_kernelvm.config.versions import EVERY_VERSION, RANGE_PATTERN, RANGE_SHAPE, VersionRange

# Whose modprobe the guest runs: ours, or that of a distribution beside it.
USERLANDS = ("none", "kmod", "busybox")
# The targets of `make help` that always come to the same .config and ask nothing.
BASE_TARGETS = (
    "allnoconfig",
    "tinyconfig",
    "defconfig",
    "alldefconfig",
    "allmodconfig",
    "allyesconfig",
)
BUILTIN_PATCHES = Path(__file__).parents[1] / "kernel" / "patches"


@dataclass(frozen=True, kw_only=True, slots=True)
class Requested:
    """One symbol that must be in the final .config, and who asked for it.

    name: without CONFIG_. value: as .config spells it: y, m, n, a number, or a text in quotes.
    where: `file:line`. optional: may be lost. force: wins against requests that do not force.
    versions: the kernels that it is asked of.
    """

    name: str
    value: str
    where: str
    optional: bool = False
    force: bool = False
    versions: VersionRange = EVERY_VERSION

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """A partial .config file; optional, force and versions hold for all that it asks for.

    where: the place in the vm-config.
    """

    path: Path
    where: str
    optional: bool = False
    force: bool = False
    versions: VersionRange = EVERY_VERSION


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditional:
    """Symbols that are asked for only where another one is set.

    name: the other symbol. value: what it must be, empty for anything but n.
    where: the place in the vm-config.
    """

    name: str
    value: str
    where: str
    symbols: tuple[Requested, ...]


PREBUILT_MEMORY_MIB = 512
LEAST_MEMORY_MIB = 32
# A model of QEMU's with features switched on or off, or set to a number; nothing else may follow.
CPU_PATTERN = (
    r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
    r"(?:,(?:[+-][a-z0-9_.-]+|[a-z0-9_.-]+=(?:on|off|yes|no|true|false|(?:0x)?[0-9a-f]+)))*"
)
SOURCE_KINDS = ("tree", "git", "tarball", "debian", "version", "prebuilt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a kernel comes from.

    kind: one of SOURCE_KINDS. value: a path or URL, the name of a package, or a version; paths are
    absolute or relative to the current directory. where: the place in the vm-config.
    ref: of `git`. sha256: of `tarball`. suite: of `debian`, empty for an installed package.
    """

    kind: str
    value: str
    where: str
    ref: str = ""
    sha256: str = ""
    suite: str = ""

    @property
    def is_url(self) -> bool:
        """Whether it is fetched from a network."""
        return "://" in self.value

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and directories of this machine that it names."""
        named = self.kind in ("tree", "git", "tarball", "prebuilt") and not self.is_url
        if not named or self.value.startswith(("debian:", "host:")):
            return ()
        return tuple(self.value.split(",")) if self.kind == "prebuilt" else (self.value,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A patch that is applied to a kernel's source.

    name: for people. file: plain or compressed. where: the place in the vm-config.
    versions: the kernels that it is for. symbols: what it asks for in the configuration.
    features: what tests can ask for with the marker kernelvm_features.
    fuzz: how many lines of context may differ (patch(1), --fuzz).
    """

    name: str
    file: Path
    where: str
    versions: VersionRange = EVERY_VERSION
    symbols: tuple[Requested, ...] = ()
    features: tuple[str, ...] = ()
    fuzz: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelConfig:
    """How one kernel is made.

    version: what `make kernelversion` must begin with. base: a make target such as allnoconfig, or
    the path of a complete .config. fragments: files. symbols: of the vm-config and what cookie,
    built-in command line and patches imply. conditional: symbols that depend on others.
    auto_modules: answer m to every tristate that nobody names; prefer_builtin: y.
    patches: those that may be for this version, in order; the source's own version decides.
    image: the make target that is booted. further_images: others that are made and kept.
    release: what `uname -r` must be, empty for anything.
    llvm: what make is told as LLVM=, empty for gcc.
    """

    version: str
    source: Source
    base: str
    fragments: tuple[Fragment, ...]
    symbols: tuple[Requested, ...]
    conditional: tuple[Conditional, ...] = ()
    auto_modules: bool = False
    prefer_builtin: bool = False
    patches: tuple[Patch, ...]
    image: str
    release: str
    further_images: tuple[str, ...] = ()
    llvm: str = ""

    @property
    def images(self) -> tuple[str, ...]:
        """All make targets of images, the one that is booted first."""
        return tuple(dict.fromkeys((self.image, *self.further_images)))

    def patches_for(self, version: str) -> tuple[Patch, ...]:
        """Return the patches that are for a version, which is the source's own."""
        return tuple(patch for patch in self.patches if patch.versions.includes(version))

    @property
    def features(self) -> tuple[str, ...]:
        """What the patches may bring, for tests to ask for; the source's version is not known."""
        return tuple(dict.fromkeys(name for patch in self.patches for name in patch.features))

    def features_for(self, version: str) -> tuple[str, ...]:
        """Return what the patches for a version bring."""
        return replace(self, patches=self.patches_for(version)).features


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What QEMU is asked for.

    fast_boot: allows the flags of arch/ that shorten the boot. sandbox: QEMU's seccomp filter.
    """

    memory_mib: int
    cpu: str
    fast_boot: bool
    sandbox: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Seconds until we give up: launch to ready, one command, one kernel build."""

    boot_s: float
    command_s: float
    build_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ModprobeConfig:
    """What the guest's /etc/modprobe.d says.

    options: (module, its parameters). blacklist: modules.
    """

    options: tuple[tuple[str, str], ...]
    blacklist: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellConfig:
    """One cell: a machine with one kernel.

    id: `malta-6.12`. name: the file's stem. modules: wanted by default.
    allow_missing: modules that the kernel may lack. allow_empty: whether all that is wanted may
    turn out to be builtin or missing.
    services: the shipped ones and the file's own.
    cmdline: words for the bootloader's command line; builtin_cmdline: for the kernel's own.
    cookie: the word that makes the kernel heed the bootloader, empty if it always does.
    userland: one of USERLANDS. root: what guests boot into, None for the initramfs.
    """

    id: str
    name: str
    file: Path
    arch: Arch
    kernel: KernelConfig
    modules: tuple[str, ...]
    allow_missing: tuple[str, ...]
    allow_empty: bool
    modprobe: ModprobeConfig
    services: tuple[Service, ...]
    cmdline: str
    builtin_cmdline: str
    cookie: str
    userland: str
    machine: Machine
    timeouts: Timeouts
    root: Root | None = None

    @property
    def command_word(self) -> str:
        """What names it on a command line of `kernelvm`."""
        if self.file == Path():
            return f"--prebuilt={self.kernel.source.value}"
        return self.id

    def bootloader_cmdline(self, *, words: str = "", cookie: bool = True) -> str:
        """Return the command line that QEMU passes.

        words: added at the end. cookie: whether the cookie is among them.
        """
        parts = (
            self.arch.base_cmdline,
            self.cmdline,
            self.cookie if cookie else "",
            words,
        )
        return " ".join(part for part in parts if part)


CIRCUMSTANCES: dict[str, Expected] = {
    "versions": Placed(
        text=Text(
            doc="The kernel versions it is for, default all.",
            pattern=RANGE_PATTERN,
            shape=RANGE_SHAPE,
        )
    ),
    "optional": Flag(doc="May be lost in olddefconfig, default false."),
    "force": Flag(doc="Wins where another place asks for another value, default false."),
}
SHA256 = r"[0-9a-f]{64}"
