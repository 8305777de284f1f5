"""Packages of Debian: unpacking what is here; fetching is tested where guests need it."""

import shutil
from pathlib import Path

import pytest

from pytest_kernelvm.errors import BadInput, BuildFailed, ToolMissing
from pytest_kernelvm.fetch.apt import mirror
from pytest_kernelvm.fetch.debian import find_package, unpack_deb, unpack_source
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.store import Store

PATCH = """\
--- a/hello.c
+++ b/hello.c
@@ -1 +1 @@
-int hello = 1;
+int hello = 2;
"""


def source_package(directory: Path, patch: str) -> tuple[Path, ...]:
    """Make a source package in the format '3.0 (quilt)', with one patch."""
    (directory / "hello-1.0").mkdir(parents=True)
    (directory / "hello-1.0/hello.c").write_text("int hello = 1;\n")
    (directory / "debian/patches").mkdir(parents=True)
    (directory / "debian/patches/series").write_text("# a comment\n\ntwo.patch # why\n")
    (directory / "debian/patches/two.patch").write_text(patch)
    made = (directory / "hello_1.0.orig.tar.gz", directory / "hello_1.0-1.debian.tar.xz")
    for archive, content in zip(made, ("hello-1.0", "debian"), strict=True):
        argv = ["tar", "--create", "--auto-compress", f"--file={archive}", content]
        run(argv, cwd=directory, timeout_s=60)
    dsc = directory / "hello_1.0-1.dsc"
    dsc.write_text("Format: 3.0 (quilt)\n")
    return (*made, dsc)


def test_source_is_unpacked_and_patched(tmp_path: Path) -> None:
    unpack_source(source_package(tmp_path / "files", PATCH), tmp_path / "tree")
    assert (tmp_path / "tree/hello.c").read_text() == "int hello = 2;\n"
    assert (tmp_path / "tree/debian/patches/series").is_file()


def test_source_whose_patch_does_not_apply(tmp_path: Path) -> None:
    files = source_package(tmp_path / "files", PATCH.replace("= 1", "= 7"))
    with pytest.raises(BuildFailed, match=r"two\.patch does not apply"):
        unpack_source(files, tmp_path / "tree")


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb here")
class TestBinaryPackage:
    def test_is_unpacked(self, tmp_path: Path) -> None:
        root = tmp_path / "package"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(
            "Package: hello\nVersion: 1\nArchitecture: all\nMaintainer: me\nDescription: hello\n"
        )
        (root / "bin").mkdir()
        (root / "bin/hello").write_text("#!/bin/sh\n")
        deb = tmp_path / "hello.deb"
        run(["dpkg-deb", "--build", "--root-owner-group", root, deb], timeout_s=60)
        unpack_deb(deb, tmp_path / "unpacked")
        assert (tmp_path / "unpacked/bin/hello").read_text() == "#!/bin/sh\n"

    def test_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "hello.deb").write_text("hello")
        with pytest.raises(BadInput, match="cannot be unpacked"):
            unpack_deb(tmp_path / "hello.deb", tmp_path / "unpacked")


@pytest.mark.slow
def test_other_suites_are_asked_and_the_hosts_apt_is_left_alone(tmp_path: Path) -> None:
    def host() -> tuple[str, dict[str, bytes]]:
        foreign = run(["dpkg", "--print-foreign-architectures"], timeout_s=60).stdout
        files = (path for path in Path("/etc/apt").rglob("*") if path.is_file())
        return foreign, {str(path): path.read_bytes() for path in files}

    store = Store(tmp_path, Silent())
    before = host()
    try:
        package = find_package(store, "linux-source-5.10", arch="", suite="bullseye")
        image = find_package(store, "linux-image-4kc-malta", arch="mipsel", suite="bookworm")
    except ToolMissing as missing:
        pytest.skip(missing.summary)
    assert package.version.startswith("5.10.")
    assert image.arch == "mipsel"
    with pytest.raises(BadInput, match="suite nosuch is not on the mirror") as absent:
        find_package(store, "linux-source-6.12", arch="", suite="nosuch", where="m.yaml:4:5")
    assert absent.value.evidence.where[0] == "m.yaml:4:5"
    with pytest.raises(BadInput, match=r"bullseye has no package linux-source-9\.99") as absent:
        find_package(store, "linux-source-9.99", arch="", suite="bullseye")
    assert "linux-source-5.10" in absent.value.evidence.excerpt
    assert host() == before


def test_mirror_of_the_hosts_apt() -> None:
    assert mirror().startswith("http")
