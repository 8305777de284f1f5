"""vm-configs/*.yaml: one file a machine, expanded into cells."""

from __future__ import annotations

import contextlib
import difflib
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import ARCHES, Arch
from pytest_kernelvm.config.roots import ROOT, Root, root_of
from pytest_kernelvm.config.services import SERVICES, Service, services_of
from pytest_kernelvm.config.typed_yaml import (
    ByShape,
    Complaints,
    Expected,
    Flag,
    ListOf,
    Located,
    MapOf,
    Number,
    Placed,
    Record,
    Text,
    compose,
)
from pytest_kernelvm.config.versions import (
    EVERY_VERSION,
    RANGE_PATTERN,
    RANGE_SHAPE,
    VersionRange,
)
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import file_kind

# Whose modprobe the guest runs: ours, or that of a distribution beside it.
USERLANDS = ("none", "kmod", "busybox")

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
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
class VmConfig:
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


_ONE_LINE = r"[^\n\r\"\\]*"
_SYMBOL = Text(
    doc="A Kconfig symbol, without CONFIG_.",
    pattern=r"(?!CONFIG_)[A-Za-z0-9_]+",
    shape="a symbol without CONFIG_, such as IPV6",
)
_VALUE = Placed(
    text=Text(doc="y, m, n, a number, or a text.", pattern=r"[^\n\r]*", shape="one line of text")
)
_CIRCUMSTANCES: dict[str, Expected] = {
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
_DETAILED_VALUE = Record(
    doc="A value with its circumstances.",
    required=("value",),
    keys={"value": _VALUE, **_CIRCUMSTANCES},
)
_SYMBOLS = MapOf(
    doc="Symbols that must hold: y, m, n, a number, or a text.",
    key=_SYMBOL,
    value=ByShape(
        scalar=_VALUE,
        mapping=_DETAILED_VALUE,
        sequence=ListOf(doc="One value for each range of versions.", item=_DETAILED_VALUE),
    ),
)
_PATH = Placed(text=Text(doc="A path.", pattern=r".+", shape="a path"))
_MODULE = Text(doc="A module's name.", pattern=r"[A-Za-z0-9_.:+-]+", shape="a module's name")

_PATCH_FILE = Placed(
    text=Text(
        doc="The name of a built-in patch, or a file relative to this one; .gz .xz .bz2 .zst too.",
        pattern=r".+",
        shape="a name or a path",
    )
)
_PATCHES = ListOf(
    doc="Patches, applied in this order.",
    item=ByShape(
        scalar=_PATCH_FILE,
        mapping=Record(
            doc="A patch with its circumstances.",
            required=("file",),
            keys={
                "name": Text(doc="For people; default the file's.", pattern=r".+", shape="a name"),
                "file": _PATCH_FILE,
                "versions": Placed(
                    text=Text(
                        doc="The kernel versions it is for, default all.",
                        pattern=RANGE_PATTERN,
                        shape=RANGE_SHAPE,
                    )
                ),
                "config": _SYMBOLS,
                "features": ListOf(
                    doc="What it brings; tests ask for it with the marker kernelvm_features.",
                    item=Text(doc="A word.", pattern=r"[A-Za-z0-9_.-]+", shape="a word"),
                ),
                "fuzz": Number(
                    doc="Lines of context that may differ, default 0.", least=0, most=3, whole=True
                ),
            },
        ),
    ),
)
_SHA256 = r"[0-9a-f]{64}"
_SOURCE = Record(
    doc="Where the kernel comes from; {version} stands for the version.",
    one_of=SOURCE_KINDS,
    along={"ref": "git", "sha256": "tarball", "suite": "debian"},
    keys={
        "tree": Placed(
            text=Text(
                doc="A working tree, relative to this file; it is not written into.",
                pattern=r".+",
                shape="a path",
            )
        ),
        "git": Placed(
            text=Text(doc="A git repository: path or URL.", pattern=r".+", shape="a path or URL")
        ),
        "ref": Placed(
            text=Text(
                doc="Commit, tag or branch, default HEAD.",
                pattern=r"(?!-)[^\s:^~?*\[\\]+",
                shape="a commit, a tag or a branch",
            )
        ),
        "tarball": Placed(
            text=Text(
                doc="A kernel tarball: a path relative to this file, or a URL with `sha256`.",
                pattern=r".+",
                shape="a path or URL",
            )
        ),
        "sha256": Placed(
            text=Text(
                doc="The tarball's sha256, checked before it is unpacked.",
                pattern=_SHA256,
                shape="64 hexadecimal digits in lower case",
            )
        ),
        "debian": Placed(
            text=Text(
                doc="A Debian source package, such as linux-source-{version}.",
                pattern=r"linux-source-[a-z0-9.{}+-]+",
                shape="a package such as linux-source-6.12",
            )
        ),
        "suite": Placed(
            text=Text(
                doc="The Debian suite to fetch the package from; default: it is installed here.",
                pattern=r"[a-z][a-z0-9-]*",
                shape="a suite such as bookworm-backports",
            )
        ),
        "version": Placed(
            text=Text(
                doc="A version, looked for here, then among Debian's packages, then on kernel.org.",
                pattern=r"[0-9]+\.[0-9]+[A-Za-z0-9.-]*|\{version\}",
                shape="a version such as 6.12.30",
            )
        ),
        "prebuilt": Placed(
            text=Text(
                doc="A finished kernel: a directory, .deb or .rpm files joined by commas, "
                "host:/boot (host:RELEASE for one of several), or debian:PACKAGE[:ARCH][@SUITE].",
                pattern=r".+",
                shape="a path, host:/boot, or debian:PACKAGE",
            )
        ),
    },
)

_COOKIE = Text(
    doc="The kernel heeds the bootloader's command line only if it contains this.",
    pattern=r"[A-Za-z0-9_.=-]+",
    shape="one word of letters, digits, and _.=-",
)

SCHEMA = Record(
    doc="A machine of pytest-kernelvm, with one or several kernels.",
    required=("arch", "kernel"),
    keys={
        "arch": Text(doc="The architecture.", allowed=tuple(ARCHES)),
        "kernel": Record(
            doc="How the kernel is made.",
            required=("version",),
            keys={
                "version": ListOf(
                    doc="One version or several; each makes a cell.",
                    or_one=True,
                    item=Text(
                        doc="A kernel version such as 6.12.",
                        pattern=r"[0-9]+\.[0-9]+[A-Za-z0-9.+-]*",
                        shape="a version such as 6.12",
                    ),
                ),
                "source": _SOURCE,
                "base": Placed(
                    text=Text(
                        doc="A make target (allnoconfig, defconfig, …) or a complete .config file.",
                        pattern=r".+",
                        shape="a make target or a path",
                    )
                ),
                "fragments": ListOf(
                    doc="Partial .config files, relative to this file.",
                    item=ByShape(
                        scalar=_PATH,
                        mapping=Record(
                            doc="A fragment with its circumstances.",
                            required=("file",),
                            keys={"file": _PATH, **_CIRCUMSTANCES},
                        ),
                    ),
                ),
                "symbols": _SYMBOLS,
                "conditional": MapOf(
                    doc="Symbols to add where another is set (`USB`) or has a value (`USB=m`).",
                    key=Text(
                        doc="A condition.",
                        pattern=rf"{_SYMBOL.pattern}(?:=[^\n\r]+)?",
                        shape="a symbol, or SYMBOL=value",
                    ),
                    value=_SYMBOLS,
                ),
                "auto_modules": Flag(
                    doc="Answer m to every tristate that nobody names, default false."
                ),
                "prefer_builtin": Flag(
                    doc="Answer y to every tristate that nobody names; with auto_modules: keep y "
                    "where that is the default. Default false."
                ),
                "LLVM": Text(
                    doc="Compile with clang and lld: true, or their version, such as 16. "
                    "Default false: gcc.",
                    pattern=r"true|false|[0-9]+",
                    shape="true, false or a version such as 16",
                ),
                "patches": _PATCHES,
                "image": ListOf(
                    doc="Make targets of images; the first is booted. vmlinux is always kept.",
                    or_one=True,
                    item=Placed(
                        text=Text(
                            doc="A make target.",
                            allowed=tuple(
                                dict.fromkeys(
                                    image for arch in ARCHES.values() for image in arch.images
                                )
                            ),
                        )
                    ),
                ),
                "release": Text(
                    doc="What `uname -r` must be; a build that differs is stopped.",
                    pattern=r"[A-Za-z0-9.+_~-]+",
                    shape="a release such as 6.12.30",
                ),
            },
        ),
        "modules": ListOf(doc="Modules wanted in the initramfs by default.", item=_MODULE),
        "allow_missing": ListOf(
            doc="Modules that the kernel may lack; all others are errors.", item=_MODULE
        ),
        "allow_empty": Flag(
            doc="Whether all wanted modules may be builtin or missing, default false."
        ),
        "modprobe": Record(
            doc="The guest's /etc/modprobe.d.",
            keys={
                "options": MapOf(
                    doc="Module parameters by module.",
                    key=_MODULE,
                    value=Text(
                        doc="As after the module's name in an options line.",
                        pattern=r"[^\n\r]+",
                        shape="one line",
                    ),
                ),
                "blacklist": ListOf(doc="Modules whose aliases are not heeded.", item=_MODULE),
            },
        ),
        "services": SERVICES,
        "cmdline": Text(
            doc="Words for the command line that the bootloader passes.",
            pattern=r"[^\n\r]*",
            shape="one line",
        ),
        "builtin_cmdline": Text(
            doc="Words for the kernel's built-in command line.",
            pattern=_ONE_LINE,
            shape="one line without quotes and backslashes",
        ),
        "cookie": ByShape(
            scalar=_COOKIE,
            mapping=Record(
                doc="A cookie with its circumstances.",
                required=("text",),
                keys={
                    "text": _COOKIE,
                    "whole_word": Flag(
                        doc="It must be a word of its own, not part of one; default false."
                    ),
                },
            ),
        ),
        "guest": Record(
            doc="What is in the initramfs besides agent and modules.",
            keys={
                "userland": Text(
                    doc="Whose modprobe: ours (none, the default), kmod's or busybox's.",
                    allowed=USERLANDS,
                ),
            },
        ),
        "root": ROOT,
        "machine": Record(
            doc="What QEMU gives the guest.",
            keys={
                "memory_mib": Number(
                    doc="Memory in MiB.", least=LEAST_MEMORY_MIB, most=4096, whole=True
                ),
                "cpu": Text(doc="QEMU's -cpu.", pattern=CPU_PATTERN, shape="a CPU model"),
                "fast_boot": Flag(doc="Use QEMU flags that shorten the boot, default true."),
                "sandbox": Flag(doc="Use QEMU's seccomp filter (-sandbox), default true."),
            },
        ),
        "timeouts": Record(
            doc="Seconds until we give up.",
            keys={
                "boot_s": Number(doc="Launch to ready.", least=0.1, most=3600, whole=False),
                "command_s": Number(doc="One command.", least=0.1, most=3600, whole=False),
                "build_s": Number(doc="One kernel build.", least=1, most=86400, whole=False),
            },
        ),
    },
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a vm-config."""
    return {"$schema": SCHEMA_ID, "title": "pytest-kernelvm vm-config", **SCHEMA.schema()}


def symbol_value(value: Located) -> str:
    """Return what a vm-config says of a symbol as a .config says it: texts are quoted."""
    text = value.text
    plain = text in ("y", "m", "n") or text.removeprefix("-").isdecimal()
    if not value.quoted and (plain or _is_hex(text)):
        return text
    # As scripts/kconfig/util.c, escape_string_value() does.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _circumstances(given: dict[str, Any]) -> dict[str, Any]:
    versions = given.get("versions")
    return {
        "versions": VersionRange(versions.text) if versions else EVERY_VERSION,
        "optional": given.get("optional", False),
        "force": given.get("force", False),
    }


def _symbols(given: dict[str, Any]) -> tuple[Requested, ...]:
    """Return the requests of one `symbols` mapping, whose values stand bare or with more."""
    requests = []
    for name, entry in given.items():
        for one in entry if isinstance(entry, tuple) else (entry,):
            detailed = {"value": one} if isinstance(one, Located) else one
            value: Located = detailed["value"]
            requests.append(
                Requested(
                    name=name,
                    value=symbol_value(value),
                    where=str(value.place),
                    **_circumstances(detailed),
                )
            )
    return tuple(requests)


def _fragment(base: Path, given: Located | dict[str, Any], version: str) -> Fragment:
    detailed = {"file": given} if isinstance(given, Located) else given
    located: Located = detailed["file"]
    return Fragment(
        path=_existing(base, located, "the fragment", version),
        where=str(located.place),
        **_circumstances(detailed),
    )


def _conditional(condition: str, symbols: dict[str, Any], file: Path) -> Conditional:
    name, _, value = condition.partition("=")
    asked = _symbols(symbols)
    where = asked[0].where if asked else str(file)
    return Conditional(name=name, value=value, where=where, symbols=asked)


def _is_hex(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return text.startswith("0x")


def _existing(base: Path, located: Located, what: str, version: str) -> Path:
    path = base / located.text.replace("{version}", version)
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        # Reading anything else might never end.
        if not stat.S_ISREG(mode):
            raise BadInput(
                f"{what} {path} is {file_kind(mode)}, no regular file",
                Evidence(where=(str(located.place),)),
            )
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _file_names(path.parent), n=1)
        raise BadInput(
            f"{what} {path} does not exist",
            Evidence(
                where=(str(located.place),),
                next_step=f"did you mean {path.parent / near[0]}?" if near else "",
            ),
        )
    return path


def _file_names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


# What a patch's file name has behind the patch's name.
_SUFFIXES = re.compile(r"(?:\.(?:patch|diff|gz|xz|bz2|zst))+$")


def _patch(base: Path, given: Located | dict[str, Any], version: str) -> Patch:
    detailed: dict[str, Any] = {"file": given} if isinstance(given, Located) else given
    located: Located = detailed["file"]
    versions = detailed.get("versions")
    of = VersionRange(versions.text) if versions else EVERY_VERSION
    builtin = BUILTIN_PATCHES / f"{located.text}.patch"
    file = builtin if builtin.is_file() else _existing(base, located, "the patch", version)
    return Patch(
        name=str(detailed.get("name", _SUFFIXES.sub("", file.name))),
        file=file,
        where=str(located.place),
        versions=of,
        symbols=tuple(_within(each, of) for each in _symbols(detailed.get("config", {}))),
        features=tuple(detailed.get("features", ())),
        fuzz=int(detailed.get("fuzz", 0)),
    )


def _within(request: Requested, versions: VersionRange) -> Requested:
    """Return what a patch for some versions asks for: of others it asks nothing."""
    both = (each.text for each in (versions, request.versions) if each.text)
    return replace(request, versions=VersionRange(",".join(both)))


def _patches(base: Path, given: Iterable[Any], version: str) -> list[Patch]:
    """Return the patches that may be for a version; files of the others need not be there."""
    chosen = []
    for each in given:
        versions = None if isinstance(each, Located) else each.get("versions")
        if versions is None or VersionRange(versions.text).may_include(version):
            chosen.append(_patch(base, each, version))
    return chosen


def _base_config(base: Path, located: Located | None, version: str) -> str:
    if located is None:
        return "allnoconfig"
    text = located.text
    if "/" in text or "." in text:
        return str(_existing(base, located, "the base configuration", version))
    if text not in BASE_TARGETS and not text.endswith("_defconfig"):
        near = difflib.get_close_matches(text, BASE_TARGETS, n=1)
        raise BadInput(
            f"there is no base configuration {text!r}",
            Evidence(
                expected=f"{', '.join(BASE_TARGETS)}, NAME_defconfig, or a complete .config file "
                "with a dot or slash in its name",
                where=(str(located.place),),
                next_step=f"did you mean {near[0]!r}?" if near else "",
            ),
        )
    return text


def _source(base: Path, given: dict[str, Located], file: Path, version: str) -> Source:
    if not given:
        return Source(kind="debian", value=f"linux-source-{version}", where=str(file))
    texts = {key: located.text.replace("{version}", version) for key, located in given.items()}
    (kind,) = texts.keys() & set(SOURCE_KINDS)
    source = Source(
        kind=kind,
        value=texts[kind],
        where=str(given[kind].place),
        ref=texts.get("ref", ""),
        sha256=texts.get("sha256", ""),
        suite=texts.get("suite", ""),
    )
    if kind == "tarball" and not source.is_url:
        return replace(source, value=str(_existing(base, given[kind], "the tarball", version)))
    return _checked(_below(base, source))


def _below(base: Path, source: Source) -> Source:
    """Take a path in a source as relative to a directory."""
    value = source.value
    if source.is_url or source.kind in ("debian", "version"):
        return source
    if source.kind == "prebuilt":
        if value.startswith(("debian:", "host:")):
            return source
        paths = [str(base / Path(path).expanduser()) for path in value.split(",")]
        return replace(source, value=",".join(paths))
    return replace(source, value=str(base / Path(value).expanduser()))


def _checked(source: Source) -> Source:
    if source.kind == "tarball" and source.is_url and not source.sha256:
        raise BadInput(
            f"the tarball {source.value} comes from a network and has no sha256",
            Evidence(where=(source.where,), next_step="add `sha256:` to the source"),
        )
    return source


def source_named(text: str) -> Source:
    """Return the source that an option names.

    text: KIND:VALUE as in a vm-config; `git:REPOSITORY@REF`, `tarball:URL@SHA256`,
    `debian:PACKAGE@SUITE`. Paths are relative to the current directory.
    Raises BadInput if it is none of these.
    """
    kind, colon, value = text.partition(":")
    if not colon or not value or kind not in SOURCE_KINDS:
        raise BadInput(
            f"{text!r} names no source",
            Evidence(expected=", ".join(f"{kind}:…" for kind in SOURCE_KINDS)),
        )
    along = {"git": "ref", "tarball": "sha256", "debian": "suite"}.get(kind)
    more = {}
    before, at, behind = value.rpartition("@")
    # The @ of ssh://user@host is not ours.
    address = before.partition("://")[2] if "://" in before else "/"
    if along and at and before and "/" in address:
        value, more = before, {along: behind}
    elif kind == "tarball" and not Path(value).expanduser().is_file() and "://" not in value:
        raise BadInput(f"the tarball {value} does not exist")
    return _checked(
        _below(Path(), Source(kind=kind, value=value, where=f"--source {text}", **more))
    )


def prebuilt_cell(source: Source, arch: Arch) -> VmConfig:
    """Return the cell of a prebuilt kernel that no vm-config describes.

    It has as much memory as a distribution's kernel with its modules is comfortable in.
    """
    return VmConfig(
        id=f"prebuilt-{arch.name}",
        name="prebuilt",
        file=Path(),
        arch=arch,
        kernel=KernelConfig(
            version="",
            source=source,
            base="",
            fragments=(),
            symbols=(),
            patches=(),
            image=arch.default_image,
            release="",
        ),
        modules=(),
        allow_missing=(),
        allow_empty=True,
        modprobe=ModprobeConfig(options=(), blacklist=()),
        services=services_of({}, ""),
        cmdline="",
        builtin_cmdline="",
        cookie="",
        userland="none",
        machine=Machine(
            memory_mib=min(PREBUILT_MEMORY_MIB, arch.max_memory_mib),
            cpu=arch.cpu,
            fast_boot=True,
        ),
        timeouts=Timeouts(boot_s=120.0, command_s=60.0, build_s=7200.0),
    )


def with_source(cells: Iterable[VmConfig], source: Source) -> tuple[VmConfig, ...]:
    """Return cells whose kernels come from another source."""
    return tuple(replace(cell, kernel=replace(cell.kernel, source=source)) for cell in cells)


def _cookie(raw: dict[str, Any]) -> tuple[str, bool]:
    """Return the cookie, empty for none, and whether it must be a word of its own."""
    given = raw.get("cookie", "")
    if isinstance(given, str):
        return given, False
    return given["text"], given.get("whole_word", False)


def _implied_symbols(arch: Arch, raw: dict[str, Any], file: Path) -> list[Requested]:
    """Symbols that the cookie and the built-in command line stand for."""
    cookie, whole_word = _cookie(raw)
    where = f"{file} (builtin_cmdline)"
    # A kernel that heeds the bootloader's line is told there where the initramfs is, and not twice.
    own = arch.builtin_cmdline if cookie else arch.base_cmdline
    words = (own, raw.get("builtin_cmdline", ""))
    line = " ".join(part for part in words if part)
    implied = [
        Requested(name=name, value="y", where=where) for name in arch.builtin_cmdline_symbols
    ]
    implied.append(Requested(name="CMDLINE", value=f'"{line}"', where=where))
    where = f"{file} (cookie)"
    if cookie:
        implied.append(Requested(name=arch.cookie_require_symbol, value="y", where=where))
        implied.append(Requested(name=arch.cookie_symbol, value=f'"{cookie}"', where=where))
    if whole_word:
        implied.append(Requested(name=arch.cookie_word_symbol, value="y", where=where))
    return implied


def _kernel(raw: dict[str, Any], arch: Arch, file: Path, version: str) -> KernelConfig:
    base = file.parent
    kernel = raw["kernel"]
    cookie, _whole_word = _cookie(raw)
    patches = _patches(base, kernel.get("patches", ()), version)
    if cookie:
        name = arch.cookie_patch
        place = f"{file} (cookie)"
        patches.append(Patch(name=name, file=BUILTIN_PATCHES / f"{name}.patch", where=place))
    images = kernel.get("image", ())
    for image in images:
        if image.text not in arch.images:
            raise BadInput(
                f"{arch.name} has no image target {image.text!r}",
                Evidence(where=(str(image.place),), expected=f"one of {', '.join(arch.images)}"),
            )
    implied = _implied_symbols(arch, raw, file)
    asked = (request for patch in patches for request in patch.symbols)
    return KernelConfig(
        version=version,
        source=_source(base, kernel.get("source", {}), file, version),
        base=_base_config(base, kernel.get("base"), version),
        fragments=tuple(_fragment(base, given, version) for given in kernel.get("fragments", ())),
        symbols=(*implied, *asked, *_symbols(kernel.get("symbols", {}))),
        conditional=tuple(
            _conditional(condition, symbols, file)
            for condition, symbols in kernel.get("conditional", {}).items()
        ),
        auto_modules=kernel.get("auto_modules", False),
        prefer_builtin=kernel.get("prefer_builtin", False),
        patches=tuple(patches),
        image=images[0].text if images else arch.default_image,
        further_images=tuple(image.text for image in images[1:]),
        release=kernel.get("release", ""),
        llvm=_llvm(kernel.get("LLVM", "false")),
    )


def _llvm(text: str) -> str:
    """Return what make is told as LLVM= (Documentation/kbuild/llvm.rst): 1, or a suffix."""
    return {"false": "", "true": "1"}.get(text, f"-{text}")


# It names directories, tests and guests, and stands among QEMU's options.
_NAME = re.compile(r"\w[\w.+~ -]{0,99}")


def _check_name(file: Path) -> None:
    if not _NAME.fullmatch(file.stem) or file.stem.endswith(" "):
        raise BadInput(
            f"{file.name!r} is no name for a vm-config",
            Evidence(
                expected="letters, digits, and _ . + ~ - or blanks between them, at most 100",
                where=(repr(str(file)),),
                next_step="rename it: its cells are called by its name",
            ),
        )


def read_config(file: Path, *, version: str = "") -> tuple[VmConfig, ...]:
    """Read one vm-config and return its cells, one a kernel version.

    version: the one to make a cell for, instead of those that the file names.
    Raises BadInput with file, line and column of all that is wrong.
    """
    _check_name(file)
    complaints = Complaints(file)
    raw = SCHEMA.read(compose(file), complaints)
    complaints.raise_if_any()
    arch = ARCHES[raw["arch"]]
    machine = raw.get("machine", {})
    timeouts = raw.get("timeouts", {})
    modprobe = raw.get("modprobe", {})
    memory_mib = int(machine.get("memory_mib", 128))
    if memory_mib > arch.max_memory_mib:
        raise BadInput(
            f"{memory_mib} MiB are more than a {arch.machine} machine has in one piece",
            Evidence(where=(str(file),), expected=f"at most {arch.max_memory_mib} MiB"),
        )
    return tuple(
        VmConfig(
            id=f"{file.stem}-{version}",
            name=file.stem,
            file=file,
            arch=arch,
            kernel=_kernel(raw, arch, file, version),
            modules=raw.get("modules", ()),
            allow_missing=raw.get("allow_missing", ()),
            allow_empty=raw.get("allow_empty", False),
            modprobe=ModprobeConfig(
                options=tuple(modprobe.get("options", {}).items()),
                blacklist=modprobe.get("blacklist", ()),
            ),
            services=services_of(raw.get("services", {}), str(file)),
            cmdline=raw.get("cmdline", ""),
            builtin_cmdline=raw.get("builtin_cmdline", ""),
            cookie=_cookie(raw)[0],
            userland=raw.get("guest", {}).get("userland", "none"),
            machine=Machine(
                memory_mib=memory_mib,
                cpu=machine.get("cpu", arch.cpu),
                fast_boot=machine.get("fast_boot", True),
                sandbox=machine.get("sandbox", True),
            ),
            timeouts=Timeouts(
                boot_s=float(timeouts.get("boot_s", 60)),
                command_s=float(timeouts.get("command_s", 20)),
                build_s=float(timeouts.get("build_s", 7200)),
            ),
            root=root_of(raw.get("root"), file.parent),
        )
        for version in dict.fromkeys([version] if version else raw["kernel"]["version"])
    )


def select_cells(
    directory: Path, *, names: Sequence[str] = (), arches: Sequence[str] = ()
) -> tuple[VmConfig, ...]:
    """Return the cells of a directory of vm-configs.

    names: file stems (`malta`), cell ids (`malta-6.12`) or paths of files; empty for all.
    arches: only cells of these architectures; empty for all.
    Raises BadInput for a directory without vm-configs, or a name that fits no cell.
    """
    files = sorted(directory.glob("*.yaml"))
    paths = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    if not files and not paths:
        raise BadInput(
            f"no vm-configs in {directory}",
            Evidence(
                expected=f"{directory}/*.yaml",
                next_step="write one, or name the directory: --kernelvm-configs for pytest, "
                "--configs for kernelvm",
            ),
        )
    cells = _cells_of([*files, *paths])
    for name in names:
        if not any(_fits(cell, name) for cell in cells):
            known = [*dict.fromkeys(cell.name for cell in cells), *(cell.id for cell in cells)]
            near = difflib.get_close_matches(name, known, n=1)
            raise BadInput(
                f"no vm-config or cell is called {name!r}",
                Evidence(
                    expected=f"one of {', '.join(known)}",
                    where=(str(directory),),
                    next_step=f"did you mean {near[0]!r}?" if near else "",
                ),
            )
    chosen = [cell for cell in cells if not names or any(_fits(cell, name) for name in names)]
    return tuple(cell for cell in chosen if not arches or cell.arch.name in arches)


def _fits(cell: VmConfig, name: str) -> bool:
    return name in (cell.id, cell.name) or Path(name) == cell.file


def _cells_of(files: Iterable[Path]) -> list[VmConfig]:
    return [cell for file in dict.fromkeys(files) for cell in read_config(file)]
