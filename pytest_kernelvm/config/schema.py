"""What may be in a vm-config, with its documentation: the reader and the JSON Schema come of it."""

from __future__ import annotations

from typing import Any

from pytest_kernelvm.arch.registry import ARCHES, IMAGE_TARGETS
from pytest_kernelvm.config.model import (
    CIRCUMSTANCES,
    CPU_PATTERN,
    LEAST_MEMORY_MIB,
    SHA256,
    SOURCE_KINDS,
    USERLANDS,
)
from pytest_kernelvm.config.roots import ROOT
from pytest_kernelvm.config.services import SERVICES
from pytest_kernelvm.config.typed_yaml import (
    ByShape,
    Flag,
    ListOf,
    MapOf,
    Number,
    Placed,
    Record,
    Text,
)
from pytest_kernelvm.config.versions import RANGE_PATTERN, RANGE_SHAPE

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


_ONE_LINE = r"[^\n\r\"\\]*"
_SYMBOL = Text(
    doc="A Kconfig symbol, without CONFIG_.",
    pattern=r"(?!CONFIG_)[A-Za-z0-9_]+",
    shape="a symbol without CONFIG_, such as IPV6",
)
_VALUE = Placed(
    text=Text(doc="y, m, n, a number, or a text.", pattern=r"[^\n\r]*", shape="one line of text")
)
_DETAILED_VALUE = Record(
    doc="A value with its circumstances.",
    required=("value",),
    keys={"value": _VALUE, **CIRCUMSTANCES},
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
                pattern=SHA256,
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
        "arch": Text(doc="The architecture.", allowed=ARCHES.keys()),
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
                            keys={"file": _PATH, **CIRCUMSTANCES},
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
                    item=Placed(text=Text(doc="A make target.", allowed=IMAGE_TARGETS)),
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
