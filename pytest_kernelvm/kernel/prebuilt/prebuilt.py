"""Finished kernels: an image and a module tree that somebody else has built.

Nothing of the kernel is compiled; the agent gets the headers of another one (lent_headers.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing
from pytest_kernelvm.fetch.debian import download, find_package, unpack_deb
from pytest_kernelvm.fetch.kernel_packages import deb_field, kernel_packages
from pytest_kernelvm.foreign.elf import is_built_for
from pytest_kernelvm.foreign.files import refuse_special_files
from pytest_kernelvm.kernel.exports import SYMVERS, store_symvers, symvers_files
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.kernel.prebuilt.image import unpack_image
from pytest_kernelvm.kernel.prebuilt.lent_headers import lend_headers
from pytest_kernelvm.kernel.prebuilt.locate import (
    KernelFiles,
    find_kernel_files,
    given_root,
    package_files,
    unpacked_root,
)
from pytest_kernelvm.kernel.prebuilt.package_name import named_package
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import StagingDirectory, Store

# Counts up whenever an entry made from the same files changes.
RECIPE = 2
COPY_TIMEOUT_S = 1800.0


def arch_of(store: Store, source: Source) -> Arch:
    """Return the architecture of a prebuilt kernel.

    Args:
        store: Where packages are downloaded to.
        source: As in the vm-config.

    Returns:
        The architecture.

    Raises:
        BadInput: It is not one of ours.
    """
    package = named_package(source)
    if package:
        return _of_debian(package.arch, source)
    files = package_files(source)
    if files and files[0].suffix == ".deb":
        return _of_debian(deb_field(files[0], "Architecture"), source)
    with store.work(f"look-{digest_of(source.value)}") as work:
        found = find_kernel_files(unpacked_root(store, source, work), source)
        image = unpack_image(found.image, work.directory / "image")
        for arch in ARCHES.values():
            if is_built_for(image, arch):
                return arch
    raise BadInput(
        f"the kernel in {source.value} is of no supported architecture",
        Evidence(expected=", ".join(ARCHES), where=(source.where,)),
    )


def _of_debian(name: str, source: Source) -> Arch:
    for arch in ARCHES.values():
        if arch.debian_arch == name:
            return arch
    raise BadInput(
        f"{source.value} is of the architecture {name}, which is not supported",
        Evidence(expected=", ".join(ARCHES), where=(source.where,)),
    )


def prebuilt_digest(store: Store, source: Source) -> Digest:
    """Return what names a prebuilt kernel.

    Raises BadInput if there is no kernel, ToolMissing if debian can't be reached.

    Args:
        store: Where Debian's answers are recorded.
        source: As in the vm-config.

    Returns:
        A digest of packages, or of names, sizes and times of files.
    """
    package = named_package(source)
    if package:
        first = find_package(
            store, package.name, arch=package.arch, suite=package.suite, where=source.where
        )
        packages = kernel_packages(store, first, source.where)
        return digest_of([RECIPE, "packages", sorted(each.sha256 for each in packages)])
    given = package_files(source)
    if given:
        return digest_of([RECIPE, "debs", sorted(file_digest(each) for each in given)])
    root = given_root(source)
    found = find_kernel_files(root, source)
    files = [
        found.image,
        *(path for path in sorted(_all_below(found.modules)) if path.is_file()),
        *symvers_files(root, found.image, found.modules, found.release),
    ]
    stamps = [[str(each), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return digest_of([RECIPE, "files", stamps])


def obtain_prebuilt(store: Store, config: CellConfig) -> Digest:
    """Return the digest of a cell's prebuilt kernel, which is in the store then.

    Raises BadInput if there is none, or it is of another architecture, ToolMissing if it can't be
    fetched, or no headers for the agent are at hand.

    Args:
        store: Where it is put.
        config: The cell.

    Returns:
        The kernel's digest.
    """
    source = config.kernel.source
    digest = prebuilt_digest(store, source)

    def make(work: StagingDirectory) -> dict[str, Any]:
        return _import(store, config, work)

    store.obtain(KERNELS, digest, make, label=f"the kernel of {config.id}")
    return digest


def _import(store: Store, config: CellConfig, work: StagingDirectory) -> dict[str, Any]:
    source, arch, entry = config.kernel.source, config.arch, work.entry
    root = unpacked_root(store, source, work)
    found = find_kernel_files(root, source)
    image = unpack_image(found.image, entry / arch.default_image)
    if not is_built_for(image, arch):
        raise BadInput(
            f"{found.image.name} is no {arch.name} kernel that QEMU can boot",
            Evidence(where=(source.where, str(found.image))),
        )
    if found.modules:
        # depmod(8) and modinfo(8) would wait for the other end of a FIFO.
        refuse_special_files(found.modules)
        store.progress.say(f"copying the modules of {found.release}")
        _copy_modules(found.modules, found.release, entry)
    dot_config = _copy_beside(found, entry)
    if not _store_symvers(root, found, entry):
        _store_symvers_of_debian(store, source, found, work)
    lender = lend_headers(store, arch, found.release, entry)
    return {
        "release": found.release,
        "version": found.release,
        "arch": arch.name,
        "image": image.name,
        "patches": [],
        "source": source.value,
        "first_cell": config.id,
        "prebuilt": True,
        "headers_of": lender,
        "shared_console": _lacks_channel(arch, parse_config(dot_config.read_text())),
    }


def _copy_modules(modules: Path, release: str, entry: Path) -> None:
    tree = entry / "modules/lib/modules" / release
    tree.parent.mkdir(parents=True)
    run(["cp", "-a", "--reflink=auto", modules, tree], timeout_s=COPY_TIMEOUT_S)
    for name in ("build", "source"):
        (tree / name).unlink(missing_ok=True)
    if not (tree / "modules.dep").is_file():
        base = f"--basedir={entry / 'modules'}"
        run(["depmod", base, release], timeout_s=COPY_TIMEOUT_S)


def _copy_beside(found: KernelFiles, entry: Path) -> Path:
    """Copy what lies beside an image; return the .config, which is empty if there was none."""
    for name in ("config", "System.map"):
        for beside in (f"{name}-{found.release}", name):
            if found.image.with_name(beside).is_file():
                shutil.copyfile(found.image.with_name(beside), entry / name)
                break
    dot_config = entry / "config"
    if not dot_config.is_file():
        dot_config.write_text("")
    return dot_config


def _store_symvers(root: Path, found: KernelFiles, entry: Path) -> bool:
    return store_symvers(root, found.image, found.modules, found.release, entry)


def _store_symvers_of_debian(
    store: Store, source: Source, found: KernelFiles, work: StagingDirectory
) -> None:
    """Keep what Debian has of the exports of its kernels, in another package; it may be missing."""
    package = named_package(source)
    if not package or not found.modules:
        return
    root = work.directory / "symvers"
    root.mkdir()
    try:
        name = f"linux-headers-{found.release}"
        first = find_package(store, name, arch=package.arch, suite=package.suite)
        unpack_deb(download(store, first), root)
    except (BadInput, ToolMissing) as error:
        store.progress.say(f"no {SYMVERS} of {found.release}: {error.summary}")
        return
    _store_symvers(root, found, work.entry)


def _lacks_channel(arch: Arch, symbols: dict[str, str]) -> bool:
    """Whether the agent's port needs modules, which nobody has loaded when it starts."""
    return any(symbols.get(symbol) != "y" for symbol in arch.channel_symbols)


def _all_below(directory: Path | None) -> Iterator[Path]:
    return directory.rglob("*") if directory else iter(())


def is_prebuilt(config: CellConfig) -> bool:
    """Whether a cell's kernel is a finished one."""
    return config.kernel.source.kind == "prebuilt"
