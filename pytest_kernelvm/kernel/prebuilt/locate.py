"""Where the files of a finished kernel are: in a directory, on this machine, in packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.fetch.debian import download, find_package, unpack_deb
from pytest_kernelvm.fetch.kernel_packages import kernel_packages
from pytest_kernelvm.fetch.rpm import unpack_rpm
from pytest_kernelvm.kernel.prebuilt.image import release_in
from pytest_kernelvm.kernel.prebuilt.package_name import named_package
from pytest_kernelvm.process import run
from pytest_kernelvm.store.store import StagingDirectory, Store

UNPACK = {".deb": unpack_deb, ".rpm": unpack_rpm}
HOST_ROOT = Path("/")
MODULE_ROOTS = ("lib/modules", "usr/lib/modules", "modules/lib/modules", "modules")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFiles:
    """A kernel in a directory.

    Attributes:
        release: What `uname -r` will say.
        image: Its file.
        modules: Its lib/modules/RELEASE, None without modules.
    """

    release: str
    image: Path
    modules: Path | None


def package_files(source: Source) -> list[Path]:
    """Return the .deb or .rpm files that a source names.

    Args:
        source: As in the vm-config.

    Returns:
        The files; nothing if it names something else.

    Raises:
        BadInput: A file does not exist.
    """
    paths = [Path(path) for path in source.value.split(",")]
    if not all(path.suffix in UNPACK for path in paths):
        return []
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{path} does not exist", Evidence(where=(source.where,)))
    return paths


def unpacked_root(store: Store, source: Source, work: StagingDirectory) -> Path:
    """Return a directory with the kernel: the given one, or where packages are unpacked.

    Raises BadInput if there is no such directory or package, ToolMissing if debian can't be
    reached.

    Args:
        store: Where packages are downloaded to.
        source: As in the vm-config.
        work: Where packages are unpacked.

    Returns:
        The directory.
    """
    package = named_package(source)
    given = package_files(source)
    if not package and not given:
        return given_root(source)
    if package:
        first = find_package(store, package.name, arch=package.arch, suite=package.suite)
        given = [download(store, each) for each in kernel_packages(store, first)]
    root = work.directory / "root"
    root.mkdir()
    for path in given:
        store.progress.say(f"unpacking {path.name}")
        UNPACK[path.suffix](path, root)
    return root


def given_root(source: Source) -> Path:
    """Return the directory that a source names, / for `host:`.

    Args:
        source: As in the vm-config.

    Returns:
        The directory.

    Raises:
        BadInput: It does not exist.
    """
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


def find_kernel_files(root: Path, source: Source) -> KernelFiles:
    """Return the kernel below a directory.

    Args:
        root: The directory.
        source: As in the vm-config; it may name one of several.

    Returns:
        Its files.

    Raises:
        BadInput: There is none, or several.
    """
    found = [*_kernels_in(root)]
    host = source.value.removeprefix("host:") if source.value.startswith("host:") else ""
    if host:
        found = _of_host(found, host)
    if len(found) == 1:
        return found[0]
    where = tuple(place for place in (source.where, str(root)) if place)
    if not found:
        raise BadInput(
            f"there is no kernel in {source.value}",
            Evidence(
                expected=f"boot/vmlinuz-RELEASE and lib/modules/RELEASE, or an image called "
                f"{', '.join(_image_names())}",
                where=where,
            ),
        )
    raise BadInput(
        f"there are several kernels in {source.value}",
        Evidence(
            seen=", ".join(each.release for each in found),
            where=where,
            next_step=f"host:{found[0].release}" if host else "keep one of them",
        ),
    )


def _of_host(found: list[KernelFiles], wanted: str) -> list[KernelFiles]:
    """Return the kernels of this machine that are meant: of a release, or in /boot the running."""
    if wanted != "/boot":
        return [each for each in found if each.release == wanted]
    if len(found) < 2:
        return found
    running = run(["uname", "-r"], timeout_s=30).stdout.strip()
    return [each for each in found if each.release == running] or found


def _kernels_in(root: Path) -> Iterator[KernelFiles]:
    trees = {
        path.name: path
        for place in MODULE_ROOTS
        for path in sorted((root / place).glob("[0-9]*"))
        if path.is_dir()
    }
    # Fedora and openSUSE keep the image with its modules, and copy it to /boot at installation.
    images = {release: image for release, tree in trees.items() if (image := _image_in(tree))}
    for name in reversed(_image_names()):
        for image in (root / "boot").glob(f"{name}-*"):
            if image.is_file():
                images[image.name.removeprefix(f"{name}-")] = image
    for release in sorted(images):
        yield KernelFiles(release=release, image=images[release], modules=trees.get(release))
    flat = _image_in(root)
    if not images and flat:
        release, tree = next(iter(trees.items()), (release_in(flat), None))
        yield KernelFiles(release=release, image=flat, modules=tree)


def _image_in(directory: Path) -> Path | None:
    paths = (directory / name for name in _image_names())
    return next((path for path in paths if path.is_file()), None)


def _image_names() -> list[str]:
    """Return how images are called: as make calls them, and as distributions do."""
    made = [arch.default_image for arch in ARCHES.values() if arch.image_magic]
    return list(dict.fromkeys([*made, "vmlinuz", "vmlinux", "Image.gz"]))
