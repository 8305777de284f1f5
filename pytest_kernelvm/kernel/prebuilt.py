"""Finished kernels: an image and a module tree that somebody else has built.

Nothing of the kernel is compiled. The agent needs headers, and such a kernel has none that fit
nolibc: it gets those of another kernel of the same architecture. That is sound because system calls
and their numbers never change (Documentation/process/stable-api-nonsense.rst); of a kernel that is
not newer, so that no program asks for what this one lacks. Which one it was is said and noted.
"""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import ARCHES, Arch
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.config.versions import leading_numbers
from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing
from pytest_kernelvm.fetch.debian import download, find_package, unpack_deb
from pytest_kernelvm.fetch.kernel_packages import deb_field, host_suite, kernel_packages
from pytest_kernelvm.fetch.rpm import unpack_rpm
from pytest_kernelvm.foreign.files import refuse_special_files
from pytest_kernelvm.kernel.exports import SYMVERS, keep_symvers, symvers_files
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.kernel.source.headers import headers_of_source
from pytest_kernelvm.kernel.source.source import DEBIAN_SOURCES
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.kernel_note import stored_note
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.toolchain.elf_head import fits

# Counts up whenever an entry made from the same files changes.
RECIPE = 2
COPY_TIMEOUT_S = 1800.0
MOST_IMAGE_BYTES = 512 << 20
_ZLIB_GZIP_WINDOW = 31
UNPACK = {".deb": unpack_deb, ".rpm": unpack_rpm}
HOST_ROOT = Path("/")
MODULE_ROOTS = ("lib/modules", "usr/lib/modules", "modules/lib/modules", "modules")
IMAGE_NAMES = ("Image", "vmlinuz", "vmlinux", "Image.gz")

_PACKAGE = re.compile(
    r"(?P<name>linux-[a-z0-9.+~-]+?)(?::(?P<arch>[a-z0-9]+))?(?:@(?P<suite>[a-z][a-z0-9-]*))?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPackageName:
    """A Debian package as a source names it: `debian:NAME[:ARCH][@SUITE]`."""

    name: str
    arch: str
    suite: str


def named_package(source: Source) -> DebianPackageName | None:
    """Return the package that a `prebuilt` source names; None if it names files.

    The architecture is the package name's last word if that is one (linux-image-arm64).
    Raises BadInput if it is no package's name or no architecture of ours.
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
            f"the architecture of {found['name']} is not said or not ours",
            Evidence(
                expected=f"debian:{found['name']}:ARCH, ARCH being {' or '.join(known)}",
                where=(source.where,),
            ),
        )
    return DebianPackageName(name=found["name"], arch=arch, suite=found["suite"] or host_suite())


def arch_of(store: Store, source: Source) -> Arch:
    """Return the architecture of a prebuilt kernel. Raises BadInput if it is not one of ours."""
    package = named_package(source)
    if package:
        return _of_debian(package.arch, source)
    files = _package_files(source)
    if files and files[0].suffix == ".deb":
        return _of_debian(deb_field(files[0], "Architecture"), source)
    with store.work(f"look-{digest_of(source.value)}") as work:
        found = _find(_unpacked_roots(store, source, work), source)
        image = _unpacked_image(found.image, work.directory / "image")
        for arch in ARCHES.values():
            if fits(image, arch):
                return arch
    raise BadInput(
        f"the kernel in {source.value} is of none of our architectures",
        Evidence(expected=", ".join(ARCHES), where=(source.where,)),
    )


def _of_debian(name: str, source: Source) -> Arch:
    for arch in ARCHES.values():
        if arch.debian_arch == name:
            return arch
    raise BadInput(
        f"{source.value} is of the architecture {name}, which is none of ours",
        Evidence(expected=", ".join(ARCHES), where=(source.where,)),
    )


def prebuilt_digest(store: Store, source: Source) -> Digest:
    """Return what names a prebuilt kernel: digests of packages, or names, sizes and times of files.

    Raises as debian.find_package, and BadInput if there is no kernel.
    """
    package = named_package(source)
    if package:
        first = find_package(
            store, package.name, arch=package.arch, suite=package.suite, where=source.where
        )
        packages = kernel_packages(store, first, source.where)
        return digest_of([RECIPE, "packages", sorted(each.sha256 for each in packages)])
    given = _package_files(source)
    if given:
        return digest_of([RECIPE, "debs", sorted(file_digest(each) for each in given)])
    root = _roots(source)
    found = _find(root, source)
    files = [
        found.image,
        *(path for path in sorted(_all_below(found.modules)) if path.is_file()),
        *symvers_files(root, found.image, found.modules, found.release),
    ]
    stamps = [[str(each), each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    return digest_of([RECIPE, "files", stamps])


def obtain_prebuilt(store: Store, cell: CellConfig) -> Digest:
    """Return the digest of a cell's prebuilt kernel, which is in the store then.

    Raises BadInput if there is none, or it is of another architecture, ToolMissing if it can't be
    fetched or no headers for the agent are at hand.
    """
    source = cell.kernel.source
    digest = prebuilt_digest(store, source)

    def make(work: StagingDirectory) -> dict[str, Any]:
        return _import(store, cell, work)

    store.obtain("kernels", digest, make, label=f"the kernel of {cell.id}")
    return digest


def _import(store: Store, cell: CellConfig, work: StagingDirectory) -> dict[str, Any]:
    source, arch, entry = cell.kernel.source, cell.arch, work.entry
    root = _unpacked_roots(store, source, work)
    found = _find(root, source)
    image = _unpacked_image(found.image, entry / arch.default_image)
    if not fits(image, arch):
        raise BadInput(
            f"{found.image.name} is no {arch.name} kernel that QEMU can boot",
            Evidence(where=(source.where, str(found.image))),
        )
    if found.modules:
        # depmod(8) and modinfo(8) would wait for the other end of a FIFO.
        refuse_special_files(found.modules)
        store.progress.say(f"copying the modules of {found.release}")
        tree = entry / "modules/lib/modules" / found.release
        tree.parent.mkdir(parents=True)
        run(["cp", "-a", "--reflink=auto", found.modules, tree], timeout_s=COPY_TIMEOUT_S)
        for name in ("build", "source"):
            (tree / name).unlink(missing_ok=True)
        if not (tree / "modules.dep").is_file():
            base = f"--basedir={entry / 'modules'}"
            run(["depmod", base, found.release], timeout_s=COPY_TIMEOUT_S)
    for name in ("config", "System.map"):
        for beside in (f"{name}-{found.release}", name):
            if found.image.with_name(beside).is_file():
                shutil.copyfile(found.image.with_name(beside), entry / name)
                break
    config = entry / "config"
    if not config.is_file():
        config.write_text("")
    if not _keep_symvers(root, found, entry):
        _keep_symvers_of_debian(store, source, found, work)
    lender = _lend_headers(store, arch, found.release, entry)
    return {
        "release": found.release,
        "version": found.release,
        "arch": arch.name,
        "image": image.name,
        "patches": [],
        "source": source.value,
        "first_cell": cell.id,
        "prebuilt": True,
        "headers_of": lender,
        "shared_console": _lacks_channel(arch, parse_config(config.read_text())),
    }


def _keep_symvers(root: Path, found: _Found, entry: Path) -> bool:
    return keep_symvers(root, found.image, found.modules, found.release, entry)


def _keep_symvers_of_debian(
    store: Store, source: Source, found: _Found, work: StagingDirectory
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
    _keep_symvers(root, found, work.entry)


def _lacks_channel(arch: Arch, config: dict[str, str]) -> bool:
    """Whether the agent's port needs modules, which nobody has loaded when it starts."""
    return any(config.get(symbol) != "y" for symbol in arch.channel_symbols)


# Where it is


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A kernel in a directory. modules: its lib/modules/RELEASE, None without modules."""

    release: str
    image: Path
    modules: Path | None


def _package_files(source: Source) -> list[Path]:
    """Return the .deb or .rpm files that a source names; empty if it names something else."""
    paths = [Path(path) for path in source.value.split(",")]
    if not all(path.suffix in UNPACK for path in paths):
        return []
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{path} does not exist", Evidence(where=(source.where,)))
    return paths


def _unpacked_roots(store: Store, source: Source, work: StagingDirectory) -> Path:
    """Return a directory with the kernel: the given one, or where packages are unpacked."""
    package = named_package(source)
    given = _package_files(source)
    if not package and not given:
        return _roots(source)
    if package:
        first = find_package(store, package.name, arch=package.arch, suite=package.suite)
        given = [download(store, each) for each in kernel_packages(store, first)]
    root = work.directory / "root"
    root.mkdir()
    for path in given:
        store.progress.say(f"unpacking {path.name}")
        UNPACK[path.suffix](path, root)
    return root


def _roots(source: Source) -> Path:
    if source.value.startswith("host:"):
        return HOST_ROOT
    path = Path(source.value).absolute()
    if not path.is_dir():
        raise BadInput(
            f"the prebuilt kernel {path} does not exist",
            Evidence(
                expected="a directory, .deb or .rpm files, host:/boot, or debian:PACKAGE",
                where=(source.where,),
            ),
        )
    return path


def _find(root: Path, source: Source) -> _Found:
    """Return the kernel below a directory. Raises BadInput if there is none, or several."""
    host = source.value.removeprefix("host:") if source.value.startswith("host:") else ""
    wanted = "" if host == "/boot" else host
    found = [each for each in _kernels_in(root) if not wanted or each.release == wanted]
    if host == "/boot" and len(found) > 1:
        running = run(["uname", "-r"], timeout_s=30).stdout.strip()
        found = [each for each in found if each.release == running] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(
            f"there is no kernel in {source.value}",
            Evidence(
                expected=f"boot/vmlinuz-RELEASE and lib/modules/RELEASE, or an image called "
                f"{', '.join(IMAGE_NAMES)}",
                where=tuple(place for place in (source.where, str(root)) if place),
            ),
        )
    raise BadInput(
        f"there are several kernels in {source.value}",
        Evidence(
            seen=", ".join(each.release for each in found),
            where=tuple(place for place in (source.where, str(root)) if place),
            next_step=f"host:{found[0].release}" if host else "keep one of them",
        ),
    )


def _kernels_in(root: Path) -> Iterator[_Found]:
    trees = {
        path.name: path
        for place in MODULE_ROOTS
        for path in sorted((root / place).glob("[0-9]*"))
        if path.is_dir()
    }
    # Fedora and openSUSE keep the image with its modules, and copy it to /boot at installation.
    images = {release: image for release, tree in trees.items() if (image := _image_in(tree))}
    for name in reversed(IMAGE_NAMES):
        for image in (root / "boot").glob(f"{name}-*"):
            if image.is_file():
                images[image.name.removeprefix(f"{name}-")] = image
    for release in sorted(images):
        yield _Found(release=release, image=images[release], modules=trees.get(release))
    flat = _image_in(root)
    if not images and flat:
        release, tree = next(iter(trees.items()), (_release_in(flat), None))
        yield _Found(release=release, image=flat, modules=tree)


def _image_in(directory: Path) -> Path | None:
    paths = (directory / name for name in IMAGE_NAMES)
    return next((path for path in paths if path.is_file()), None)


def _release_in(image: Path) -> str:
    """Return the release that an image says of itself (init/version.c, linux_banner)."""
    data = image.read_bytes()
    try:
        plain = _gunzipped(data) if _gzipped(data) else data
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {image}: {error}", Evidence(where=(str(image),))) from None
    found = re.search(rb"Linux version ([0-9]\S+) ", plain)
    return found[1].decode() if found else "unknown"


def _all_below(directory: Path | None) -> Iterator[Path]:
    return directory.rglob("*") if directory else iter(())


# What it is


def _gzipped(data: bytes) -> bool:
    return data.startswith(b"\x1f\x8b")


def _gunzipped(data: bytes) -> bytes:
    """Return what a gzip file has in it. Raises EOFError for more than any kernel has."""
    decompressor = zlib.decompressobj(_ZLIB_GZIP_WINDOW)
    plain = decompressor.decompress(data, MOST_IMAGE_BYTES)
    if not decompressor.eof:
        large = len(plain) >= MOST_IMAGE_BYTES
        raise EOFError(
            f"more than {MOST_IMAGE_BYTES >> 20} MiB in it" if large else "it ends too early"
        )
    return plain


def _unpacked_image(path: Path, to: Path) -> Path:
    """Write an image as QEMU boots it: without compression, without EFI's zboot around it."""
    try:
        data = path.read_bytes()
        if data[:2] == b"MZ" and data[4:8] == b"zimg":
            # drivers/firmware/efi/libstub/zboot-header.S: offset and size of the payload.
            offset, size = struct.unpack_from("<II", data, 8)
            data = data[offset : offset + size]
        if _gzipped(data):
            data = _gunzipped(data)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise BadInput(f"cannot read {path}: {error}", Evidence(where=(str(path),))) from None
    kept = to.with_name("vmlinux") if data.startswith(b"\x7fELF") else to
    kept.write_bytes(data)
    return kept


# Headers for the agent


def _lend_headers(store: Store, arch: Arch, release: str, entry: Path) -> str:
    """Copy the headers of another kernel of an architecture; return whose they are."""
    mine = leading_numbers(release)
    lenders = []
    for path in sorted((store.root / "kernels").glob("*/headers")):
        note = stored_note(store, path.parent.name)
        if note and note.arch == arch:
            theirs = leading_numbers(note.release)
            older = theirs <= mine
            # Of those that are newer the oldest; their numbers count downwards.
            rank = theirs if older else tuple(-number for number in theirs)
            lenders.append(((older, rank), path.parent, note))
    if lenders:
        _rank, lender, note = max(lenders, key=lambda each: each[0])
        for name in ("headers", "nolibc"):
            shutil.copytree(lender / name, entry / name)
        store.progress.say(f"the agent is compiled with the headers of {note.headers_of}")
        return note.headers_of
    return _headers_of_some_source(store, arch, mine, entry)


def _headers_of_some_source(store: Store, arch: Arch, mine: tuple[int, ...], entry: Path) -> str:
    installed = sorted(
        DEBIAN_SOURCES.glob("linux-source-*.tar.*"),
        key=lambda path: (leading_numbers(path.name[13:]) <= mine, leading_numbers(path.name[13:])),
        reverse=True,
    )
    if not installed:
        raise ToolMissing(
            "there are no headers to compile the agent with",
            Evidence(
                expected=f"a stored kernel of {arch.name}, or an installed linux-source",
                next_step="apt-get install linux-source",
            ),
        )
    package = installed[0].name.partition(".tar.")[0]
    headers = headers_of_source(store, package, arch)
    for name in ("headers", "nolibc"):
        shutil.copytree(headers / name, entry / name)
    store.progress.say(f"the agent is compiled with the headers of {package}")
    return package


def is_prebuilt(cell: CellConfig) -> bool:
    """Whether a cell's kernel is a finished one."""
    return cell.kernel.source.kind == "prebuilt"
