"""Kernel source: found, named by its content, unpacked once, patched in a linked copy."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing
from pytest_kernelvm.fetch.kernel_packages import fetch_source_package
from pytest_kernelvm.fetch.patching import apply_patch
from pytest_kernelvm.fetch.tarball import UNPACK_TIMEOUT_S, RemoteTarball, Tarball
from pytest_kernelvm.kernel.source.commit import find_commit
from pytest_kernelvm.kernel.source.version import resolve
from pytest_kernelvm.kernel.source.worktree import WorkingTree, read_tree
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.intact import require_intact_below
from pytest_kernelvm.store.kinds import SOURCES
from pytest_kernelvm.store.store import StagingDirectory, Store

DEBIAN_SOURCES = Path("/usr/src")
DPKG_INFO = Path("/var/lib/dpkg/info")


class LocatedSource(Protocol):
    """A source that was found."""

    @property
    def digest(self) -> str:
        """Names its content."""
        ...

    @property
    def config_digest(self) -> str:
        """Names the part of it that can decide a configuration."""
        ...

    @property
    def family(self) -> str:
        """Names the sources that are likely to be much alike."""
        ...

    @property
    def label(self) -> str:
        """The source in words."""
        ...

    def unpack(self, store: Store, work: StagingDirectory, show: Callable[[str], None]) -> None:
        """Put its files into `work.entry/tree`, which is empty.

        Args:
            store: Where it is downloaded to, if it is.
            work: Where to unpack.
            show: Called with how much is done, in words.
        """


def locate(store: Store, source: Source) -> LocatedSource:
    """Find a source, and fetch into the store what can only be named once it is here.

    Raises ToolMissing if a Debian package is not installed, or a server can't be reached.

    Args:
        store: Where it is fetched to.
        source: As in the vm-config.

    Returns:
        The source.

    Raises:
        BadInput: It is no source.
    """
    if source.kind == "version":
        return locate(store, resolve(store, source))
    if source.kind == "tree":
        return _tree(store, source)
    if source.kind == "git":
        return find_commit(store, source)
    if source.kind == "tarball":
        return _tarball(source)
    if source.kind == "debian":
        return fetch_source_package(store, source) if source.suite else _installed(source)
    raise BadInput(
        f"{source.kind}: {source.value} is a finished kernel, which nothing can be built from",
        Evidence(where=(source.where,)),
    )


def _tree(store: Store, source: Source) -> WorkingTree:
    path = Path(source.value)
    if path.is_dir():
        # Before all of a directory is read that may be somebody's home.
        try:
            kernel_version(path)
        except BadInput as error:
            raise BadInput(error.summary, replace(error.evidence, where=(source.where,))) from None
    return read_tree(store, path, source.where)


def _tarball(source: Source) -> Tarball | RemoteTarball:
    if source.is_url:
        return RemoteTarball(url=source.value, digest=source.sha256, where=source.where)
    path = Path(source.value)
    if not path.is_file():
        raise BadInput(f"the tarball {path} does not exist", Evidence(where=(source.where,)))
    digest = file_digest(path)
    if source.sha256 and digest != source.sha256:
        raise BadInput(
            f"{path} is not the expected file",
            Evidence(
                expected=f"sha256 {source.sha256}", seen=f"sha256 {digest}", where=(source.where,)
            ),
        )
    return Tarball(path=path, digest=digest)


def _installed(source: Source) -> Tarball:
    package = source.value
    found = sorted(DEBIAN_SOURCES.glob(f"{package}.tar.*"))
    if not found:
        raise ToolMissing(
            f"the Debian package {package} is not installed",
            Evidence(
                expected=f"{DEBIAN_SOURCES}/{package}.tar.xz",
                where=(source.where,),
                next_step=f"apt-get install {package}",
            ),
        )
    return Tarball(path=found[0], digest=_debian_digest(package, found[0]) or file_digest(found[0]))


def _debian_digest(package: str, tarball: Path) -> str:
    """The md5 that dpkg noted at installation spares us reading 150 MB at each start."""
    try:
        lines = (DPKG_INFO / f"{package}.md5sums").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        md5, _, name = line.partition("  ")
        if name == str(tarball).lstrip("/"):
            return digest_of({"package": package, "md5": md5, "size_bytes": tarball.stat().st_size})
    return ""


def unpacked(store: Store, located: LocatedSource) -> Path:
    """Return the unpacked tree of a source, unpacking it if the store does not have it.

    Raises BadInput if it holds no kernel.

    Args:
        store: Where it is put.
        located: The source.

    Returns:
        The tree, without patches.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        tree = work.entry / "tree"
        tree.mkdir()
        store.progress.say(f"unpacking {located.label}")
        located.unpack(
            store,
            work,
            lambda text: store.progress.update(f"unpacking {located.label}: {text}"),
        )
        try:
            kernel_version(tree)
        except BadInput as error:
            # The original message names a directory that is gone by the time it is read.
            raise BadInput(f"{located.label} holds no kernel tree", error.evidence) from None
        return {"source": located.label}

    label = f"the source of {located.label}"
    return store.obtain(SOURCES, Digest(located.digest), make, label=label) / "tree"


def _intact(tree: Path) -> Path:
    """Return a stored tree. Raises DamagedStore if a file of it is not as it was unpacked."""
    require_intact_below(tree)
    return tree


def kernel_version(tree: Path) -> str:
    """Return a tree's version, such as 6.12.30, from its Makefile.

    Args:
        tree: The kernel's source.

    Returns:
        The version.

    Raises:
        BadInput: It is not a kernel tree.
    """
    try:
        head = (tree / "Makefile").read_text(errors="replace")[:2000]
    except OSError:
        head = ""
    parts = [
        re.search(rf"^{name} *= *(\S*)$", head, re.MULTILINE)
        for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION")
    ]
    if not all(parts) or not (tree / "Kconfig").is_file():
        raise BadInput(
            f"{tree} is not a kernel tree",
            Evidence(expected="a Makefile with VERSION and PATCHLEVEL, and a Kconfig"),
        )
    major, minor, sub, extra = (part[1] for part in parts if part)
    return f"{major}.{minor}" + (f".{sub}" if sub else "") + extra


def patched(store: Store, located: LocatedSource, patches: Sequence[Patch]) -> Path:
    """Return a tree with patches applied: a copy whose untouched files are links.

    Raises BuildFailed if a patch does not apply; the error has what patch(1) said, DamagedStore if
    a file of the stored source is damaged.

    Args:
        store: Where it is put.
        located: The source.
        patches: In the order in which they are applied.

    Returns:
        The tree.
    """
    unpatched = unpacked(store, located)
    if not patches:
        return _intact(unpatched)
    digests = [file_digest(patch.file) for patch in patches]

    def make(work: StagingDirectory) -> dict[str, Any]:
        tree = work.entry / "tree"
        run(["cp", "-al", _intact(unpatched), tree], timeout_s=UNPACK_TIMEOUT_S)
        for patch in patches:
            apply_patch(tree, patch, work.directory)
        return {"source": located.digest, "patches": [patch.name for patch in patches]}

    key = digest_of({"source": located.digest, "patches": digests})
    label = f"the patched source of {located.label}"
    return _intact(store.obtain(SOURCES, key, make, label=label) / "tree")


def patched_for(store: Store, located: LocatedSource, kernel: KernelConfig) -> Path:
    """Return the tree of a source with those of a kernel's patches that are for its version.

    Raises BuildFailed if a patch does not apply; the error has what patch(1) said, BadInput if the
    source holds no kernel, DamagedStore if a file of the stored source is damaged.

    Args:
        store: Where it is put.
        located: The source.
        kernel: As in the vm-config.

    Returns:
        The tree.
    """
    version = kernel_version(unpacked(store, located)) if kernel.patches else ""
    return patched(store, located, kernel.patches_for(version) if version else ())
