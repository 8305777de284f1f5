"""Programs that building and booting take, and the packages that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kernelvm.arch.base import Packages
from pytest_kernelvm.doctor.finding import SYSTEMS, System
from pytest_kernelvm.guest.root_image import TOOLS

# These switch everything off, so that only what vm-configs and fragments name is compiled.
NARROW_BASES = ("allnoconfig", "tinyconfig")


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A program, what it is for, and who packages it.

    Attributes:
        name: Its name in PATH.
        reason: What it is needed for.
        packages: One name for all package systems, or one for each, in the order of SYSTEMS.
        flag: The argument with which it prints its version; empty not to run it.
        minimum: The oldest version that is new enough; empty if every version is.
    """

    name: str
    reason: str
    packages: tuple[str, ...]
    flag: str = "--version"
    minimum: str = ""


# Minima: Documentation/process/changes.rst of 6.12; setpriv has --pdeathsig since util-linux 2.33.
# The list is what it takes to build 6.1 and 6.12 on a minimal Debian 12, which always has the last
# four.
BUILD_PROGRAMS = (
    Program(
        name="setpriv",
        reason="ends child processes when we end",
        minimum="2.33",
        packages=("util-linux",),
    ),
    Program(
        name="make",
        reason="builds kernels",
        minimum="4.0",
        packages=("make", "make", "make", "gnumake", "make"),
    ),
    Program(
        name="gcc",
        reason="compiles the kernel's own build tools",
        flag="-dumpfullversion",
        minimum="5.1",
        packages=("gcc",),
    ),
    Program(
        name="flex",
        reason="generates the Kconfig and device tree parsers",
        minimum="2.5.35",
        packages=("flex",),
    ),
    Program(
        name="bison",
        reason="generates the Kconfig and device tree parsers",
        minimum="2.0",
        packages=("bison",),
    ),
    Program(
        name="bc",
        reason="computes the kernel's time constants",
        packages=("bc",),
    ),
    Program(
        name="depmod",
        reason="writes modules.dep in `make modules_install`",
        packages=("kmod",),
    ),
    Program(
        name="patch",
        reason="applies a vm-config's patches",
        packages=("patch", "patch", "patch", "gnupatch", "gpatch"),
    ),
    Program(
        name="tar",
        reason="unpacks kernel source",
        minimum="1.28",
        packages=("tar", "tar", "tar", "gnutar", "gnu-tar"),
    ),
    Program(
        name="xz",
        reason="unpacks kernel source",
        packages=("xz-utils", "xz", "xz", "xz", "xz"),
    ),
    Program(
        name="awk",
        reason="generates sources in kernel builds",
        flag="",
        packages=("mawk", "gawk", "gawk", "gawk", "gawk"),
    ),
    Program(
        name="cmp",
        reason="spares kernel builds what has not changed",
        flag="",
        packages=("diffutils",),
    ),
    Program(
        name="find",
        reason="collects files in kernel builds",
        flag="",
        packages=("findutils",),
    ),
    Program(
        name="gzip",
        reason="compresses /proc/config.gz and images",
        flag="",
        packages=("gzip",),
    ),
)

# What makes the images of root file systems, by kind.
IMAGE_PROGRAMS = {
    kind: Program(
        name=tool.program,
        reason=f"makes root file systems ({kind})",
        packages=tool.packages,
        flag=tool.version_flag,
    )
    for kind, tool in TOOLS.items()
}


def packages_row(*names: str) -> Mapping[System, tuple[str, ...]]:
    """Return the packages of a program, by package system.

    Args:
        names: One name for all systems, or one for each, in the order of SYSTEMS.
    """
    each = names * len(SYSTEMS) if len(names) == 1 else names
    return {system: (name,) for system, name in zip(SYSTEMS, each, strict=True)}


def known_packages(packages: Packages) -> Mapping[System, tuple[str, ...]]:
    """Return the packages of a program, by package system, for the systems that have one."""
    named = {system: getattr(packages, system) for system in SYSTEMS}
    return {system: (name,) for system, name in named.items() if name}
