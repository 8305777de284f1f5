"""Packages of any Debian suite and architecture: found, downloaded, unpacked, built (apt.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.errors import BuildFailed, ToolMissing
from pytest_kernelvm.fetch.apt import DOWNLOAD_TIMEOUT_S, Apt, Package
from pytest_kernelvm.fetch.patching import apply_patch
from pytest_kernelvm.fetch.tarball import unpack_tarball
from pytest_kernelvm.foreign.archive_rules import UnpackOptions
from pytest_kernelvm.foreign.unpacking import unpack_output
from pytest_kernelvm.process import failure, find_program, run
from pytest_kernelvm.store.digest import Digest, digest_of
from pytest_kernelvm.store.kinds import PACKAGE_LISTS, PACKAGES, RESOLVED_NAMES
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.writing import raise_if_full, write_whole

BUILD_TIMEOUT_S = 1800.0
# For so long an answer of Debian is used again.
RESOLVED_FOR_S = 86400.0


def find_package(store: Store, name: str, *, arch: str, suite: str, where: str = "") -> Package:
    """Return what a suite has under a name; Debian is asked at most once a day.

    Raises BadInput if the suite or the package does not exist.

    Args:
        store: Where the answer is recorded.
        name: Of the package.
        arch: Debian's name of the architecture, empty for the host's.
        suite: Such as bookworm or sid.
        where: File and line that name the package, for errors.

    Returns:
        The newest version of the package.

    Raises:
        ToolMissing: The mirror can't be reached, and no earlier answer is known.
    """
    arch = arch or host_arch()
    noted = store.place(RESOLVED_NAMES) / f"{digest_of([name, arch, suite])}.json"
    known = _noted(noted)
    if known and time.time() - noted.stat().st_mtime < RESOLVED_FOR_S:
        return known
    apt = Apt(store, arch, suite)
    with store.lock(
        f"{PACKAGE_LISTS}-{apt.directory.name}", f"the package lists of {suite} ({arch})"
    ):
        try:
            apt.update(where)
        except ToolMissing as error:
            if not known:
                raise
            store.progress.say(f"{error.summary}; using {known}")
            return known
        package = apt.show(name, where)
    store.progress.say(f"found {package}")
    write_whole(noted, json.dumps(asdict(package)).encode())
    return package


def _noted(path: Path) -> Package | None:
    try:
        found = json.loads(path.read_bytes())
        return Package(**{**found, "depends": tuple(found["depends"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def download(store: Store, package: Package) -> Path:
    """Return the .deb of a package, downloaded unless the store has it.

    Raises ToolMissing if it can't be downloaded.

    Args:
        store: Where it is put.
        package: What to download.

    Returns:
        The .deb.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        store.progress.say(f"downloading {package}, {package.size_bytes >> 20} MiB")
        apt = Apt(store, package.arch, package.suite)
        with store.lock(f"{PACKAGE_LISTS}-{apt.directory.name}", f"the download of {package.name}"):
            apt.download(package, work)
        return {"package": str(package)}

    label = f"the download of {package}"
    entry = store.obtain(PACKAGES, Digest(package.sha256), make, label=label)
    return next(entry.glob("*.deb"))


def unpack_deb(deb: Path, root: Path) -> None:
    """Unpack a .deb into a directory, which may have other packages in it.

    Raises BadInput if it is damaged, or holds more than files, directories and safe links.

    Args:
        deb: The package.
        root: Where / of the package is put.
    """
    program = find_program("dpkg-deb", "apt-get install dpkg")
    options = UnpackOptions(what=str(deb), absolute_links=True, compressed_bytes=deb.stat().st_size)
    unpack_output([program, "--fsys-tarfile", deb], root, options, timeout_s=DOWNLOAD_TIMEOUT_S)


def unpack_packages(
    store: Store, names: Sequence[str], *, arch: str, suite: str, directory: Path
) -> tuple[str, ...]:
    """Unpack packages of a suite into a new directory.

    They are downloaded unless the store has them.

    Raises BadInput if the suite or a package does not exist, ToolMissing if the mirror can't be
    reached.

    Args:
        store: Where downloads are put.
        names: Of the packages.
        arch: Debian's name of the architecture, empty for the host's.
        suite: Such as bookworm or sid.
        directory: It is made; its parent is there.

    Returns:
        Which packages they are, in words.
    """
    directory.mkdir()
    packages = [find_package(store, name, arch=arch, suite=suite) for name in names]
    for package in packages:
        unpack_deb(download(store, package), directory)
    return tuple(str(package) for package in packages)


def fetch_source(store: Store, name: str, *, suite: str) -> tuple[Path, ...]:
    """Return the files of a source package: its .dsc and the archives that this names.

    They are fetched unless the store has some version of them.

    Raises BadInput if the suite does not exist, ToolMissing if the mirror can't be reached.

    Args:
        store: Where they are put.
        name: Of the source package.
        suite: Such as bookworm or sid.

    Returns:
        The files.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        # Sources have no architecture, but apt needs one.
        apt = Apt(store, host_arch(), suite, kind="deb-src")
        work.entry.mkdir(exist_ok=True)
        with store.lock(f"{PACKAGE_LISTS}-{apt.directory.name}", f"the source of {name}"):
            apt.update("")
            apt.fetch_source(name, work)
        return {"source": name, "files": sorted(path.name for path in work.entry.iterdir())}

    label = f"the source of Debian's {name}"
    entry = store.obtain(PACKAGES, digest_of(["source", name, suite]), make, label=label)
    return tuple(entry / file for file in store.describe(entry)["files"])


def unpack_source(files: Sequence[Path], directory: Path) -> None:
    """Unpack a source package and apply its patches.

    Raises BuildFailed if a patch does not apply.

    Args:
        files: Those of `fetch_source`, of a package in the format '3.0 (quilt)' (dpkg-source(1)).
        directory: Where to unpack; it is made.
    """
    directory.mkdir(parents=True)
    for part, strip in ((".orig.tar.", 1), (".debian.tar.", 0)):
        (archive,) = (file for file in files if part in file.name)
        unpack_tarball(archive, directory, UnpackOptions(what=str(archive), strip_components=strip))
    patches = directory / "debian/patches"
    series = patches / "series"
    for line in series.read_text().splitlines() if series.is_file() else ():
        name = line.partition("#")[0].strip()
        if name:
            patch = Patch(name=name, file=patches / name, where=str(series))
            apply_patch(directory, patch, directory.parent)


def make_source(
    label: str, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str]
) -> None:
    """Run make in an unpacked source package.

    Args:
        label: What is made, in words.
        argv: The command.
        log: Where make's output goes.
        env: What is added to the environment.

    Raises:
        BuildFailed: make failed; the error has the end of the log.
    """
    done = run(argv, env=env, timeout_s=BUILD_TIMEOUT_S, check=False, log=log)
    if done.status != 0:
        evidence = failure(done, log)
        raise_if_full(evidence.excerpt)
        raise BuildFailed(f"{label}: make {evidence.seen}", evidence)


def host_arch() -> str:
    """Return Debian's name of the host's architecture."""
    find_program("dpkg", "this is not a Debian: name a package with its architecture, :arm64")
    return run(["dpkg", "--print-architecture"], timeout_s=30).stdout.strip()
