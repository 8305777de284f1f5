"""The package of Debian that a `prebuilt` source names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.fetch.kernel_packages import host_suite

_PACKAGE = re.compile(
    r"(?P<name>linux-[a-z0-9.+~-]+?)(?::(?P<arch>[a-z0-9]+))?(?:@(?P<suite>[a-z][a-z0-9-]*))?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPackageName:
    """A Debian package as a source names it: `debian:NAME[:ARCH][@SUITE]`.

    Attributes:
        name: Of the package.
        arch: Debian's name of the architecture.
        suite: As given, or the host's.
    """

    name: str
    arch: str
    suite: str


def named_package(source: Source) -> DebianPackageName | None:
    """Return the package that a `prebuilt` source names; None if it names files.

    The architecture is the package name's last word if that is one (linux-image-arm64).

    Args:
        source: As in the vm-config.

    Returns:
        The package's name, architecture and suite.

    Raises:
        BadInput: It is no package's name, or the architecture is none of ours.
    """
    if not source.value.startswith("debian:"):
        return None
    found = _PACKAGE.fullmatch(source.value.removeprefix("debian:"))
    if not found:
        raise BadInput(
            f"{source.value!r} names no package",
            Evidence(expected="debian:linux-image-NAME[:ARCH][@SUITE]", where=(source.where,)),
        )
    arch = found["arch"] or found["name"].rpartition("-")[2]
    known = [each.debian_arch for each in ARCHES.values() if each.debian_arch]
    if arch not in known:
        raise BadInput(
            f"the architecture of {found['name']} is not given or not supported",
            Evidence(
                expected=f"debian:{found['name']}:ARCH, ARCH being {' or '.join(known)}",
                where=(source.where,),
            ),
        )
    return DebianPackageName(name=found["name"], arch=arch, suite=found["suite"] or host_suite())
