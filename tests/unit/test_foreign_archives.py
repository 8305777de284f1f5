"""Archives and vm-configs of others: nothing is made elsewhere, and nothing hangs."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.fetch.tarball import unpack_tarball
from pytest_kernelvm.foreign.archive_rules import UnpackOptions
from pytest_kernelvm.process import run
from tests.unit.hostile import Scratch, make_scratch, refused
from tests.unit.test_foreign_bundles import MEMBERS, member

CONFIG = "arch: aarch64\nkernel: {version: '6.12', source: {%s}}\n"
KERNEL = {
    "Makefile": "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 30\nEXTRAVERSION =\n",
    "Kconfig": "mainmenu x\n",
}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return make_scratch(tmp_path)


def archive(path: Path, extra: list[tarfile.TarInfo], top: str = "linux/") -> Path:
    """Write a tar that looks like a kernel's, with members that none has."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, text in KERNEL.items():
            info = member(top + name, size=len(text))
            tar.addfile(info, io.BytesIO(text.encode()))
        for each in extra:
            tar.addfile(each)
    return path


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


SOURCES: dict[str, list[tarfile.TarInfo]] = {
    "fifo": [member("linux/x", tarfile.FIFOTYPE)],
    "device": [member("linux/x", tarfile.CHRTYPE, devmajor=1, devminor=8)],
    "block-device": [member("linux/x", tarfile.BLKTYPE, devmajor=8)],
    "unknown": [member("linux/x", b"Z")],
    "up": [member("linux/../../../pwned")],
    "absolute": [member("/tmp/pwned")],
    "absolute-link": [link("linux/x", "/etc/passwd")],
    "link-up": [link("linux/x", "../../../../outside/canary")],
    "through-a-link": [link("linux/x", "../../outside"), member("linux/x/pwned")],
    "through-an-inner-link": [link("linux/x", "y"), member("linux/x/pwned")],
    "links-that-climb": [
        link("linux/a/b/c/y", "../../.."),
        link("linux/z", "a/b/c/y/../../../outside"),
    ],
    "link-over-a-file": [link("linux/Makefile", "../../outside/canary")],
    "file-over-a-link": [link("linux/x", "Kconfig"), member("linux/x")],
    "hard-link-out": [member("linux/x", tarfile.LNKTYPE, linkname="/etc/passwd")],
    "hard-link-to-nothing": [member("linux/x", tarfile.LNKTYPE, linkname="linux/nosuch")],
    "hard-link-to-a-link": [
        link("linux/y", "../../outside/canary"),
        member("linux/x", tarfile.LNKTYPE, linkname="linux/y"),
    ],
    "newline": [member("linux/a\nb")],
    "escape": [member("linux/\x1b[2J")],
    "escape-in-a-link": [link("linux/x", "a\x1b[2J")],
    "twice": [member("linux/Makefile")],
    "deep": [member("linux/" + "d/" * 400 + "x")],
    "long": [member("linux/" + "n" * 300)],
    "time": [member("linux/x", mtime=-5), member("linux/x")],
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_hostile_source_is_refused(scratch: Scratch, name: str) -> None:
    archive(scratch.inside / "l.tar.gz", SOURCES[name])
    (scratch.inside / "evil.yaml").write_text(CONFIG % "tarball: l.tar.gz")
    refused(scratch, "build", "evil", says="l.tar.gz")
    assert not list(scratch.store.glob("sources/*"))
    assert not list(scratch.store.glob("tmp/*"))


def deb(path: Path, data: Path, control: Callable[[tarfile.TarFile], None] | None = None) -> Path:
    """Write a .deb, an ar archive of three members (man 5 deb)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        if control:
            control(tar)
        else:
            text = b"Package: x\nVersion: 1\nArchitecture: arm64\nMaintainer: x\nDescription: x\n"
            tar.addfile(member("./control", size=len(text)), io.BytesIO(text))
    parts = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", made.getvalue()),
        ("data.tar", data.read_bytes()),
    )
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in parts:
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


# In a package an absolute link counts from its root, so that it leads nowhere else.
PACKAGES = [name for name in SOURCES if name not in ("absolute-link", "time")]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_hostile_deb_is_refused(scratch: Scratch, name: str) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    data = archive(scratch.root / "data.tar", SOURCES[name])
    deb(scratch.inside / "k.deb", data)
    (scratch.inside / "evil.yaml").write_text(CONFIG % "prebuilt: k.deb")
    refused(scratch, "build", "evil", says="k.deb")


def test_a_deb_whose_control_file_is_a_fifo(scratch: Scratch) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    data = archive(scratch.root / "data.tar", [])

    def control(tar: tarfile.TarFile) -> None:
        tar.addfile(member("./control", tarfile.FIFOTYPE))

    deb(scratch.inside / "k.deb", data, control)
    refused(scratch, "boot", "--prebuilt", "k.deb", says="k.deb is no package")


def test_an_rpm_that_is_a_list_of_files_to_read(scratch: Scratch) -> None:
    """bsdtar reads mtree(5) as an archive, whose contents lie wherever it says."""
    if not shutil.which("bsdtar"):
        pytest.skip("bsdtar is not installed")
    listed = f"#mtree\n./boot/vmlinuz-6.1 type=file content={scratch.canary}\n"
    (scratch.inside / "k.rpm").write_text(listed)
    refused(scratch, "boot", "--prebuilt", "k.rpm", says="k.rpm cannot be unpacked")


SPEC = """\
Name: k
Version: 6.1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%install
mkdir -p %{{buildroot}}/boot
{commands}
%files
/boot
"""


@pytest.mark.parametrize(
    "commands",
    ["mkfifo %{buildroot}/boot/x", "ln -s ../../../etc/passwd %{buildroot}/boot/x"],
    ids=["fifo", "link-up"],
)
def test_a_hostile_rpm_is_refused(scratch: Scratch, commands: str) -> None:
    for program in ("rpmbuild", "bsdtar"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    (scratch.root / "k.spec").write_text(SPEC.format(commands=commands))
    top = scratch.root / "top"
    argv = ["rpmbuild", "-bb", "--quiet", f"--define=_topdir {top}"]
    run([*argv, str(scratch.root / "k.spec")], timeout_s=60)
    shutil.move(next(top.rglob("*.rpm")), scratch.inside / "k.rpm")
    refused(scratch, "boot", "--prebuilt", "k.rpm", says="k.rpm")


def test_what_is_harmless_is_unpacked_as_tar_does(tmp_path: Path) -> None:
    """With the same content, permissions and times, but for setuid bits."""
    source = tmp_path / "source"
    (source / "linux/a/b").mkdir(parents=True)
    (source / "linux/a/b/c").write_text("c")
    (source / "linux/a/run").write_text("run")
    (source / "linux/a/run").chmod(0o4755)
    (source / "linux/hard").hardlink_to(source / "linux/a/b/c")
    (source / "linux/soft").symlink_to("a/b/../run")
    (source / "linux" / ("long" * 20)).mkdir()
    (source / "linux" / ("long" * 20) / ("long" * 24)).write_text("long")
    (source / "linux/empty").mkdir(mode=0o700)
    os.utime(source / "linux/a/run", ns=(1, 1_700_000_000_123_456_789))
    os.utime(source / "linux/a", ns=(1, 1_600_000_000_000_000_000))
    for form in ("gnu", "pax", "ustar"):
        file = tmp_path / f"{form}.tar"
        argv = ["tar", f"--format={form}", "--create", f"--file={file}", f"--directory={source}"]
        run([*argv, "linux"], timeout_s=60)
        ours, theirs = tmp_path / f"{form}-ours", tmp_path / f"{form}-theirs"
        theirs.mkdir()
        unpack_tarball(file, ours, UnpackOptions(what=str(file), strip_components=1))
        argv = ["tar", "--extract", f"--file={file}", f"--directory={theirs}"]
        argv += ["--strip-components=1", "--no-same-owner", "--no-same-permissions"]
        run(argv, timeout_s=60)
        assert seen(ours) == seen(theirs)
        assert (ours / "a/run").stat().st_mode & 0o7777 == 0o755
        assert (ours / "hard").samefile(ours / "a/b/c")


def test_a_second_archive_cannot_redirect_links_of_the_first(tmp_path: Path) -> None:
    """Two packages are unpacked into one directory; each alone stays in it."""
    first = [member("sub/deep/x"), link("d", "sub/deep"), link("l", "d/../../x")]
    for number, members in enumerate((first, [link("d", "sub")])):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for each in members:
                tar.addfile(each)
    root = tmp_path / "root"
    unpack_tarball(tmp_path / "0.tar", root, UnpackOptions(what="the first"))
    unpack_tarball(tmp_path / "0.tar", root, UnpackOptions(what="the first"))
    with pytest.raises(BadInput, match="the second has a link that leads out of it"):
        unpack_tarball(tmp_path / "1.tar", root, UnpackOptions(what="the second"))


def seen(tree: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in tree.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        target = path.readlink() if path.is_symlink() else None
        mode = status.st_mode & ~0o7000
        found[str(path.relative_to(tree))] = (mode, status.st_mtime_ns, content, target)
    return found


# vm-configs

TEXTS: dict[str, str] = {
    "deep-flow": "[" * 100_000,
    "deep-map": "{a: " * 50_000,
    "deep-block": "- " * 100_000,
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    ),
    "circle": "arch: &a [*a]\n",
    "python": "arch: !!python/object/apply:os.system ['touch pwned']\n",
    "many": "".join(f"k{n}: 1\n" for n in range(9000)),
    "large": "arch: '" + "x" * (1 << 20) + "'\n",
    "documents": "---\na: b\n" * 5000,
    "nul": "arch: aarch64\0\n",
    "nul-in-a-path": 'arch: aarch64\nkernel: {version: "6.12", fragments: ["a\\0b"]}\n',
    "surrogate": 'arch: aarch64\nkernel: {version: "6.12", fragments: ["\\ud800"]}\n',
    "escape": 'arch: "\\e[2J"\n',
    "cpu": 'arch: aarch64\nkernel: {version: "6.12"}\nmachine: {cpu: "max,x=/etc/passwd"}\n',
    "flags": 'arch: aarch64\nkernel: {version: "6.12"}\nmachine: {extra: [-S]}\n',
    "fifo-fragment": 'arch: aarch64\nkernel: {version: "6.12", fragments: [fifo]}\n',
    "endless-fragment": 'arch: aarch64\nkernel: {version: "6.12", fragments: [/dev/zero]}\n',
    "fifo-patch": 'arch: aarch64\nkernel: {version: "6.12", patches: [fifo]}\n',
    "fifo-base": 'arch: aarch64\nkernel: {version: "6.12", base: ./fifo}\n',
    "fifo-tarball": 'arch: aarch64\nkernel: {version: "6.12", source: {tarball: fifo}}\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_vm_config_is_refused(scratch: Scratch, name: str) -> None:
    os.mkfifo(scratch.inside / "fifo")
    (scratch.inside / "evil.yaml").write_text(TEXTS[name])
    refused(scratch, "list", says="evil.yaml")


NAMES = ["a\nb", "-x", "a,b", "\x1b[2J", "a[b]", "a/../b"[-1] * 150, ".", "a\u202eb", "a:b"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_of_a_config(scratch: Scratch, name: str) -> None:
    (scratch.inside / f"{name}.yaml").write_text(CONFIG % "tree: x")
    refused(scratch, "list", says="is no name for a vm-config")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_config_that_is_no_file(scratch: Scratch, make: Callable[[Path], object]) -> None:
    make(scratch.inside / "evil.yaml")
    refused(scratch, "list", says="no regular file")


def test_members_of_bundles_are_tried_on_sources_too() -> None:
    """Each kind of member that a bundle's archive is tried with has its like here."""
    assert {"fifo", "device", "absolute", "newline", "twice"} <= MEMBERS.keys() & SOURCES.keys()
