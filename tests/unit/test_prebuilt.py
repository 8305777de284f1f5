"""Finished kernels: small files that begin as images do, in directories and packages."""

from __future__ import annotations

import gzip
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.select import prebuilt_cell
from pytest_kernelvm.config.sources import source_named
from pytest_kernelvm.errors import BadInput, ToolMissing
from pytest_kernelvm.kernel.build.build import Kernel, build_kernel, find_kernel
from pytest_kernelvm.kernel.exports import exported
from pytest_kernelvm.kernel.prebuilt import lent_headers, locate
from pytest_kernelvm.kernel.prebuilt.package_name import named_package
from pytest_kernelvm.kernel.prebuilt.prebuilt import arch_of
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import StagingDirectory, Store
from tests.unit.test_source import RecordedProgress

RELEASE = "6.1.0-9-arm64"
ARM64 = b"MZ" + bytes(54) + b"ARM\x64" + b"code Linux version 6.1.0-9-arm64 (gcc)" + bytes(60)
MIPSEL = b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x08\x00" + bytes(100)
ZBOOT = b"MZ\0\0zimg" + struct.pack("<II", 64, len(gzip.compress(ARM64, mtime=0))) + bytes(48)


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture
def store(tmp_path: Path, progress: RecordedProgress) -> Store:
    """A store with a kernel that can lend its headers."""
    store = Store(tmp_path / "store", progress)
    lend(store, "6.1.50", "aarch64")
    return store


def lend(store: Store, release: str, arch: str) -> None:
    def make(work: StagingDirectory) -> dict[str, Any]:
        for name in ("headers", "nolibc"):
            (work.entry / name).mkdir(parents=True)
            (work.entry / name / "of.h").write_text(release)
        (work.entry / "Image").write_bytes(b"")
        return {"release": release, "arch": arch, "image": "Image", "patches": []}

    store.obtain(KERNELS, digest_of([release, arch]), make, label="a lender")


def write_root(root: Path, image: bytes = ARM64, release: str = RELEASE, usr: str = "") -> Path:
    """Write what a distribution's package holds."""
    tree = root / usr / "lib/modules" / release
    (tree / "kernel").mkdir(parents=True)
    (tree / "modules.order").write_text("kernel/a.ko\n")
    (tree / "modules.builtin").write_text("")
    (tree / "build").symlink_to("/usr/src/linux-headers")
    (root / "boot").mkdir(exist_ok=True)
    (root / f"boot/vmlinuz-{release}").write_bytes(image)
    (root / f"boot/config-{release}").write_text("CONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_MMIO=m\n")
    return root


def cell_of(value: str, arch: str = "aarch64") -> CellConfig:
    return prebuilt_cell(source_named(f"prebuilt:{value}"), ARCHES[arch])


def imported(store: Store, value: str, arch: str = "aarch64") -> Kernel:
    cell = cell_of(value, arch)
    kernel = build_kernel(store, cell)
    assert find_kernel(store, cell) == kernel
    return kernel


@pytest.mark.parametrize("usr", ["", "usr"])
def test_a_directory(usr: str, store: Store, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", usr=usr)
    kernel = imported(store, str(root))
    assert kernel.release == RELEASE
    assert kernel.image.read_bytes() == ARM64
    assert (kernel.module_tree / "modules.dep").is_file()
    assert not (kernel.module_tree / "build").is_symlink()
    assert kernel.config == {"VIRTIO_CONSOLE": "y", "VIRTIO_MMIO": "m"}
    assert kernel.shared_console
    assert (kernel.headers / "of.h").read_text() == "6.1.50"
    assert (kernel.nolibc / "of.h").is_file()


def test_a_kernel_whose_port_is_built_in(store: Store, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root")
    config = root / f"boot/config-{RELEASE}"
    config.write_text("CONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_MMIO=y\n")
    assert not imported(store, str(root)).shared_console


def test_another_image_is_another_kernel(store: Store, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root")
    first = imported(store, str(root))
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(ARM64 + b"more")
    assert imported(store, str(root)).digest != first.digest


@pytest.mark.parametrize(
    "place", ["boot/Module.symvers", f"usr/src/linux-headers-{RELEASE}/Module.symvers"]
)
def test_a_table_of_exports_that_is_added(place: str, store: Store, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root")
    without = imported(store, str(root))
    assert not (without.directory / "Module.symvers").exists()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("0x00000000\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n")
    kernel = imported(store, str(root))
    assert kernel.digest != without.digest
    assert exported(kernel.directory / "Module.symvers") == {"printk": "0x00000000"}


@pytest.mark.parametrize(
    "data",
    [gzip.compress(ARM64, mtime=0), ZBOOT + gzip.compress(ARM64, mtime=0) + bytes(9)],
    ids=["gzip", "zboot"],
)
def test_packed_images_are_unpacked(data: bytes, store: Store, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", data)
    assert imported(store, str(root)).image.read_bytes() == ARM64
    assert arch_of(store, cell_of(str(root)).kernel.source).name == "aarch64"


def test_a_flat_directory(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "flat"
    directory.mkdir()
    (directory / "Image.gz").write_bytes(gzip.compress(ARM64))
    kernel = imported(store, str(directory))
    assert kernel.release == RELEASE
    assert not kernel.module_tree.exists()


def test_an_elf_image(store: Store, tmp_path: Path) -> None:
    lend(store, "6.1.50", "mipsel")
    root = write_root(tmp_path / "root", MIPSEL)
    assert arch_of(store, cell_of(str(root)).kernel.source).name == "mipsel"
    assert imported(store, str(root), "mipsel").image.name == "vmlinux"


@pytest.mark.parametrize(
    ("image", "arch"),
    [(ARM64, "mipsel"), (MIPSEL, "aarch64"), (b"", "mips")],
    ids=["aarch64", "mipsel", "empty"],
)
def test_an_image_of_another_architecture(
    image: bytes, arch: str, store: Store, tmp_path: Path
) -> None:
    root = write_root(tmp_path / "root", image)
    with pytest.raises(BadInput, match=f"is no {arch} kernel"):
        build_kernel(store, cell_of(str(root), arch))
    assert not list(store.root.glob("tmp/*"))


@pytest.mark.parametrize(
    "data", [b"", b"\x1f\x8bdamaged", b"MZ\0\0zimg"], ids=["empty", "gzip", "zboot"]
)
def test_a_damaged_image(data: bytes, store: Store, tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", data)
    with pytest.raises(BadInput):
        arch_of(store, cell_of(str(root)).kernel.source)


def test_no_kernel(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        build_kernel(store, cell_of(str(tmp_path / "absent")))
    with pytest.raises(BadInput, match="there is no kernel in"):
        build_kernel(store, cell_of(str(tmp_path)))
    with pytest.raises(BadInput, match=r"k\.deb does not exist"):
        build_kernel(store, cell_of(str(tmp_path / "k.deb")))


def test_several_kernels(store: Store, tmp_path: Path) -> None:
    root = write_root(write_root(tmp_path / "root"), release="6.1.0-8-arm64")
    with pytest.raises(BadInput, match="there are several kernels") as bad:
        build_kernel(store, cell_of(str(root)))
    assert bad.value.evidence.seen == "6.1.0-8-arm64, 6.1.0-9-arm64"


# Packages


def test_the_kernel_of_the_host(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "HOST_ROOT", write_root(tmp_path / "host"))
    assert arch_of(store, cell_of("host:/boot").kernel.source).name == "aarch64"
    assert imported(store, "host:/boot").release == RELEASE
    write_root(tmp_path / "host", release="6.1.0-10-arm64", image=ARM64 + b"newer")
    with pytest.raises(BadInput, match="several kernels in host:/boot") as several:
        build_kernel(store, cell_of("host:/boot"))
    assert several.value.evidence.next_step == "host:6.1.0-10-arm64"
    assert imported(store, f"host:{RELEASE}").release == RELEASE
    # Of several it is the one that runs.
    running = run(["uname", "-r"], timeout_s=30).stdout.strip()
    write_root(tmp_path / "host", release=running)
    assert imported(store, "host:/boot").release == running
    with pytest.raises(BadInput, match=r"no kernel in host:9\.9"):
        build_kernel(store, cell_of("host:9.9"))


def deb(root: Path, path: Path, arch: str = "arm64") -> Path:
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: linux-image\nVersion: 1\nArchitecture: {arch}\nMaintainer: A <a@b>\n"
        "Description: a kernel\n"
    )
    try:
        run(["dpkg-deb", "--build", root, path], timeout_s=60)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    return path


def test_packages(store: Store, tmp_path: Path) -> None:
    """As in sid, where image and modules come in packages of their own."""
    image, modules = write_root(tmp_path / "one"), tmp_path / "two"
    modules.mkdir()
    (image / "lib").rename(modules / "lib")
    paths = deb(image, tmp_path / "1.deb"), deb(modules, tmp_path / "2.deb")
    value = ",".join(str(path) for path in paths)
    assert arch_of(store, cell_of(value).kernel.source).name == "aarch64"
    kernel = imported(store, value)
    assert kernel.release == RELEASE
    assert (kernel.module_tree / "modules.dep").is_file()


def test_a_package_of_another_architecture(store: Store, tmp_path: Path) -> None:
    path = deb(write_root(tmp_path / "root"), tmp_path / "k.deb", arch="riscv64")
    with pytest.raises(BadInput, match="of the architecture riscv64, which is not supported"):
        arch_of(store, cell_of(str(path)).kernel.source)


def test_a_damaged_package(store: Store, tmp_path: Path) -> None:
    (tmp_path / "k.deb").write_bytes(b"!<arch>\ndebian-binary")
    with pytest.raises(BadInput, match="is no package"):
        arch_of(store, cell_of(str(tmp_path / "k.deb")).kernel.source)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        build_kernel(store, cell_of(str(tmp_path / "k.deb")))


SPEC = """\
Name: {name}
Version: 6.1.0
Release: 9
Summary: a kernel
License: GPL-2.0-only
%global _build_id_links none
%global __os_install_post %nil
%global debug_package %nil
%description
A kernel.
%install
mkdir -p %{{buildroot}}
cp -a {root}/. %{{buildroot}}
%files
{files}
"""


def rpm(root: Path, name: str) -> Path:
    """Let rpmbuild make a package of a directory."""
    if not shutil.which("bsdtar"):
        pytest.skip("bsdtar is not installed")
    spec = root.with_name(f"{name}.spec")
    files = "\n".join(f"/{path.name}" for path in root.iterdir())
    spec.write_text(SPEC.format(name=name, root=root, files=files))
    top = root.with_name(f"{name}-top")
    argv = ["rpmbuild", "-bb", "--target=aarch64", f"--define=_topdir {top}"]
    try:
        run([*argv, spec], timeout_s=60)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    return top / "RPMS/aarch64" / f"{name}-6.1.0-9.aarch64.rpm"


def test_packages_of_fedora(store: Store, tmp_path: Path) -> None:
    """The image lies with the modules, of which most are in another package."""
    core = write_root(tmp_path / "core")
    tree = core / "lib/modules" / RELEASE
    (core / f"boot/vmlinuz-{RELEASE}").rename(tree / "vmlinuz")
    (core / f"boot/config-{RELEASE}").rename(tree / "config")
    (core / "boot").rmdir()
    modules = tmp_path / "modules" / "lib/modules" / RELEASE
    (modules / "kernel").mkdir(parents=True)
    (modules / "kernel/a.ko.xz").write_bytes(b"")
    paths = rpm(core, "kernel-core"), rpm(tmp_path / "modules", "kernel-modules")
    value = ",".join(str(path) for path in paths)
    assert arch_of(store, cell_of(value).kernel.source).name == "aarch64"
    kernel = imported(store, value)
    assert (kernel.release, kernel.image.read_bytes()) == (RELEASE, ARM64)
    assert kernel.config == {"VIRTIO_CONSOLE": "y", "VIRTIO_MMIO": "m"}
    assert (kernel.module_tree / "kernel/a.ko.xz").is_file()
    assert not (kernel.module_tree / "build").is_symlink()


def test_a_damaged_rpm(store: Store, tmp_path: Path) -> None:
    if not shutil.which("bsdtar"):
        pytest.skip("bsdtar is not installed")
    (tmp_path / "k.rpm").write_bytes(b"\xed\xab\xee\xdb\x03" + bytes(200))
    with pytest.raises(BadInput, match="cannot be unpacked"):
        build_kernel(store, cell_of(str(tmp_path / "k.rpm")))


def test_an_rpm_without_a_program_for_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k.rpm").write_bytes(b"")
    setpriv = shutil.which("setpriv")
    assert setpriv
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "setpriv").symlink_to(setpriv)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ToolMissing) as missing:
        build_kernel(store, cell_of(str(tmp_path / "k.rpm")))
    assert "libarchive-tools" in missing.value.evidence.next_step


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux-image-arm64", ("linux-image-arm64", "arm64")),
        ("linux-image-6.1.0-9-cloud-arm64", ("linux-image-6.1.0-9-cloud-arm64", "arm64")),
        ("linux-image-4kc-malta:mipsel", ("linux-image-4kc-malta", "mipsel")),
    ],
)
def test_names_of_packages(text: str, expected: tuple[str, str]) -> None:
    named = named_package(source_named(f"prebuilt:debian:{text}@sid"))
    assert named
    assert ((named.name, named.arch), named.suite) == (expected, "sid")


@pytest.mark.parametrize("text", ["linux-image-4kc-malta", "linux-image-amd64", "vim", "LINUX"])
def test_wrong_names_of_packages(text: str) -> None:
    with pytest.raises(BadInput) as bad:
        named_package(source_named(f"prebuilt:debian:{text}"))
    assert "debian:" in bad.value.evidence.expected


# Headers


def test_headers_of_the_newest_older_kernel_are_lent(
    store: Store, progress: RecordedProgress, tmp_path: Path
) -> None:
    for release in ("6.12.1", "5.10.3", "6.1.9"):
        lend(store, release, "aarch64")
    lend(store, "6.1.0", "mipsel")
    root = write_root(tmp_path / "root", release="6.1.20-arm64")
    kernel = imported(store, str(root))
    assert (kernel.headers / "of.h").read_text() == "6.1.9"
    assert "the agent is compiled with the headers of 6.1.9" in progress.lines


def test_headers_of_the_oldest_newer_kernel_are_lent(store: Store, tmp_path: Path) -> None:
    lend(store, "6.12.1", "aarch64")
    root = write_root(tmp_path / "root", release="5.10.0-arm64")
    assert (imported(store, str(root)).headers / "of.h").read_text() == "6.1.50"


def test_no_headers_to_lend(
    tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lent_headers, "DEBIAN_SOURCES", tmp_path)
    root = write_root(tmp_path / "root")
    with pytest.raises(ToolMissing, match="no headers to compile the agent with") as missing:
        build_kernel(Store(tmp_path / "store", progress), cell_of(str(root)))
    assert missing.value.evidence.next_step == "apt-get install linux-source"


def test_another_release_than_demanded(store: Store, tmp_path: Path) -> None:
    cell = cell_of(str(write_root(tmp_path / "root")))
    other = replace(cell, kernel=replace(cell.kernel, release="6.2"))
    with pytest.raises(Exception, match=r"calls itself 6\.1\.0-9-arm64, not 6\.2"):
        build_kernel(store, other)
