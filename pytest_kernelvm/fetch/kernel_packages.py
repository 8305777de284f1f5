"""Kernels in Debian's packages: their sources, and finished ones with their modules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.fetch.apt import Package
from pytest_kernelvm.fetch.debian import download, find_package, unpack_deb
from pytest_kernelvm.fetch.tarball import OpaqueSource, extract
from pytest_kernelvm.foreign.tar_members import Damaged, MemberKind, TarMembers
from pytest_kernelvm.process import find_program, piped
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.store import StagingDirectory, Store

# Packages that hold a kernel: in sid, image and modules have packages of their own.
_MOST_CONTROL_BYTES = 1 << 20
_KERNEL_PACKAGE = re.compile(r"linux-(?:image|binary|modules)-[a-z0-9.+~-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePackage(OpaqueSource):
    """A linux-source package of some suite, downloaded when it is needed.

    Attributes:
        package: As Debian has it.
    """

    package: Package

    @property
    def digest(self) -> str:
        """Names the content."""
        return digest_of(["deb", self.package.sha256])

    @property
    def label(self) -> str:
        """The package in words."""
        return str(self.package)

    def unpack(self, store: Store, work: StagingDirectory, show: Callable[[str], None]) -> None:
        """Unpack the tarball of the package into `work.entry/tree`.

        Args:
            store: Where the package is downloaded to.
            work: Where to unpack.
            show: Called with how much is done, in words.

        Raises:
            BadInput: The package holds no tarball, or one that can't be unpacked.
        """
        root = work.directory / "deb"
        root.mkdir()
        unpack_deb(download(store, self.package), root)
        found = sorted((root / "usr/src").glob("linux-source-*.tar.*"))
        if not found:
            raise BadInput(f"{self.label} holds no usr/src/linux-source-*.tar.*")
        extract(found[0], work, show)


def fetch_source_package(store: Store, source: Source) -> SourcePackage:
    """Return the package of a `debian` source with a suite.

    Raises BadInput if the suite or the package does not exist, ToolMissing if the mirror can't be
    reached.

    Args:
        store: Where Debian's answer is recorded.
        source: As in the vm-config.

    Returns:
        The package, which is not downloaded yet.
    """
    package = find_package(store, source.value, arch="", suite=source.suite, where=source.where)
    return SourcePackage(package=package)


def kernel_packages(store: Store, package: Package, where: str = "") -> tuple[Package, ...]:
    """Return a kernel's package with those of its dependencies that hold image and modules.

    A metapackage such as linux-image-arm64 holds nothing but such a dependency.

    Raises BadInput if a dependency does not exist, ToolMissing if the mirror can't be reached.

    Args:
        store: Where Debian's answers are recorded.
        package: The kernel's.
        where: File and line that name the package, for errors.

    Returns:
        The package itself, then its dependencies.
    """
    found: dict[str, Package] = {}
    pending = [package]
    while pending:
        each = pending.pop(0)
        found[each.name] = each
        for name in each.depends:
            if _KERNEL_PACKAGE.fullmatch(name) and name not in found:
                pending.append(
                    find_package(store, name, arch=each.arch, suite=each.suite, where=where)
                )
    return tuple(found.values())


def deb_field(deb: Path, field: str) -> str:
    """Return a field of a .deb's control file.

    The archive with that file is read and not unpacked: it may have something else in its place.

    Args:
        deb: The package.
        field: Such as Architecture (deb-control(5)).

    Returns:
        The field's value.

    Raises:
        BadInput: The package is damaged, or has no such field.
    """
    program = find_program("dpkg-deb", "apt-get install dpkg")
    said = ""
    try:
        with piped([program, "--ctrl-tarfile", deb], timeout_s=60) as stream:
            text = _control_in(TarMembers(stream))
    except Damaged as error:
        text, said = "", str(error)
    except HarnessError as error:
        text, said = "", error.evidence.excerpt
    found = re.search(rf"^{re.escape(field)}:[ \t]*(\S[^\n]*)$", text, re.MULTILINE)
    if not found:
        raise BadInput(f"{deb} is no package", Evidence(excerpt=said, where=(str(deb),)))
    return found[1].strip()


def _control_in(members: TarMembers) -> str:
    text = ""
    for member in members:
        if member.kind is MemberKind.FILE and member.name in (b"control", b"./control"):
            text = members.read_content(_MOST_CONTROL_BYTES).decode(errors="replace")
    return text


def host_suite() -> str:
    """Return the code name of the host's Debian, or `stable`."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        text = ""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    return found[1] if found and re.search(r"^ID=debian$", text, re.MULTILINE) else "stable"
