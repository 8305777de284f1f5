"""Kernel sources: tarballs of a small tree that looks like a kernel."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, BuildFailed, ToolMissing
from pytest_kernelvm.fetch.tarball import Tarball
from pytest_kernelvm.kernel.source.source import kernel_version, locate, patched, unpacked
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, file_digest
from pytest_kernelvm.store.intact import DamagedStore
from pytest_kernelvm.store.kinds import SOURCES
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.verify import verify

MAKEFILE = """\
# SPDX-License-Identifier: GPL-2.0
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 30
EXTRAVERSION =
NAME = Baby Opossum Posse
"""
PROM = """\
void prom_init_cmdline(void)
{
	int argc = fw_arg0;

	if (argc > 1)
		copy_arguments();
	else
		use_default();
}
"""
FILES = {
    "Makefile": MAKEFILE,
    "Kconfig": 'mainmenu "Linux"\n',
    "arch/mips/prom.c": PROM,
    "drivers/untouched.c": "int untouched;\n",
}


@dataclass
class RecordedProgress:
    """Keeps the lines of progress."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def update(self, text: str) -> None:
        """Updates may be dropped."""


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture
def store(tmp_path: Path, progress: RecordedProgress) -> Store:
    return Store(tmp_path / "store", progress)


def make_tarball(path: Path, files: dict[str, str]) -> Tarball:
    """Write a tarball as kernel.org's, all below one directory."""
    with tarfile.open(path, "w:xz", preset=0) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"linux-6.12.30/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return Tarball(path=path, digest=file_digest(path))


@pytest.fixture
def tarball(tmp_path: Path) -> Tarball:
    return make_tarball(tmp_path / "linux-6.12.30.tar.xz", FILES)


def entries(store: Store) -> list[str]:
    """Return the entries of the store and what is left in its working directory."""
    found = (*store.root.glob("sources/*"), *store.root.glob("tmp/*"))
    return sorted(str(path.relative_to(store.root)) for path in found)


# Versions


@pytest.mark.parametrize(
    ("old", "new", "version"),
    [
        ("", "", "6.12.30"),
        ("SUBLEVEL = 30", "SUBLEVEL =", "6.12"),
        ("SUBLEVEL = 30", "SUBLEVEL = 0", "6.12.0"),
        ("EXTRAVERSION =", "EXTRAVERSION = -rc1", "6.12.30-rc1"),
        ("VERSION = 6\n", "VERSION=6\n", "6.12.30"),
    ],
)
def test_the_version_of_a_tree(old: str, new: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE.replace(old, new) if old else MAKEFILE)
    (tmp_path / "Kconfig").write_text("")
    assert kernel_version(tmp_path) == version


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"Makefile": MAKEFILE},
        {"Kconfig": ""},
        {"Kconfig": "", "Makefile": "all:\n\techo VERSION = 6\n"},
        {"Kconfig": "", "Makefile": MAKEFILE.replace("PATCHLEVEL", "LEVEL")},
    ],
)
def test_a_directory_that_is_no_kernel_tree(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match="is not a kernel tree") as bad:
        kernel_version(tmp_path)
    assert str(tmp_path) in bad.value.summary


# Tarballs


def test_a_tarball_is_named_by_its_content(store: Store, tmp_path: Path, tarball: Tarball) -> None:
    copy = tmp_path / "copy.tar.xz"
    copy.write_bytes(tarball.path.read_bytes())
    source = Source(kind="tarball", value=str(copy), where="malta.yaml:4:7")
    assert locate(store, source) == Tarball(path=copy, digest=tarball.digest)
    copy.write_bytes(tarball.path.read_bytes() + b"\0")
    assert locate(store, source).digest != tarball.digest


def test_a_missing_package_is_told_with_the_command_that_installs_it(store: Store) -> None:
    source = Source(kind="debian", value="linux-source-0.99", where="malta.yaml:4:7")
    with pytest.raises(ToolMissing) as missing:
        locate(store, source)
    assert missing.value.summary == "the Debian package linux-source-0.99 is not installed"
    assert missing.value.evidence.next_step == "apt-get install linux-source-0.99"
    assert missing.value.evidence.where == ("malta.yaml:4:7",)


def test_a_tarball_is_unpacked_once(
    store: Store, tarball: Tarball, progress: RecordedProgress
) -> None:
    tree = unpacked(store, tarball)
    assert tree == store.path(SOURCES, Digest(tarball.digest)) / "tree"
    assert {
        str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()
    } == FILES
    assert kernel_version(tree) == "6.12.30"
    assert unpacked(store, tarball) == tree
    assert progress.lines == ["unpacking linux-6.12.30.tar.xz"]
    assert entries(store) == [f"sources/{tarball.digest}"]


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_broken_tarball_leaves_nothing(store: Store, tarball: Tarball, kept: int) -> None:
    tarball.path.write_bytes(tarball.path.read_bytes()[:kept])
    with pytest.raises(BadInput, match="cannot be unpacked") as bad:
        unpacked(store, tarball)
    assert bad.value.summary.startswith(str(tarball.path))
    assert bad.value.evidence.excerpt
    assert entries(store) == []


def test_a_missing_tarball(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be unpacked") as bad:
        unpacked(store, Tarball(path=tmp_path / "absent.tar.xz", digest="d" * 64))
    assert "No such file" in bad.value.summary


def test_a_tarball_of_something_else_leaves_nothing(store: Store, tmp_path: Path) -> None:
    other = make_tarball(tmp_path / "hello.tar.xz", {"Makefile": "all:\n", "hello.c": ""})
    with pytest.raises(BadInput) as bad:
        unpacked(store, other)
    assert bad.value.summary == "hello.tar.xz holds no kernel tree"
    assert "Makefile" in bad.value.evidence.expected
    assert entries(store) == []


# Patches

FITS = dedent(
    """\
    A patch as git writes it.

    diff --git a/arch/mips/prom.c b/arch/mips/prom.c
    --- a/arch/mips/prom.c
    +++ b/arch/mips/prom.c
    @@ -1,6 +1,7 @@
     void prom_init_cmdline(void)
     {
     \tint argc = fw_arg0;
    +\tcheck_cookie();

     \tif (argc > 1)
     \t\tcopy_arguments();
    diff --git a/arch/mips/cookie.c b/arch/mips/cookie.c
    new file mode 100644
    --- /dev/null
    +++ b/arch/mips/cookie.c
    @@ -0,0 +1 @@
    +int cookie;
    """
)
DOES_NOT_FIT = FITS.replace(" \tint argc = fw_arg0;", " \tint argc = other_arg;")
NEEDS_FUZZ = FITS.replace(" void prom_init_cmdline(void)", " void other_name(void)")


def write_patch(directory: Path, name: str, text: str) -> Patch:
    path = directory / f"{name}.patch"
    path.write_text(text)
    return Patch(name=name, file=path, where="malta.yaml:9:5")


def test_without_patches_the_tree_is_the_unpacked_one(store: Store, tarball: Tarball) -> None:
    assert patched(store, tarball, []) == unpacked(store, tarball)


def test_a_patch_changes_a_copy(store: Store, tarball: Tarball, tmp_path: Path) -> None:
    patch = write_patch(tmp_path, "cookie", FITS)
    plain = unpacked(store, tarball)
    tree = patched(store, tarball, [patch])
    assert tree != plain
    changed = Path("arch/mips/prom.c")
    assert "check_cookie" in (tree / changed).read_text()
    assert (tree / "arch/mips/cookie.c").read_text() == "int cookie;\n"
    assert (plain / changed).read_text() == PROM
    assert not (plain / "arch/mips/cookie.c").exists()
    untouched = Path("drivers/untouched.c")
    assert (tree / untouched).samefile(plain / untouched)
    assert not (tree / changed).samefile(plain / changed)
    assert not list(tree.rglob("*.orig"))


def test_a_patch_is_named_relative_to_the_current_directory(
    store: Store, tarball: Tarball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = write_patch(tmp_path, "cookie", FITS)
    monkeypatch.chdir(patch.file.parent)
    tree = patched(store, tarball, [replace(patch, file=Path(patch.file.name))])
    assert "check_cookie" in (tree / "arch/mips/prom.c").read_text()


def test_a_patched_tree_is_made_once_for_each_set_of_patches(
    store: Store, tarball: Tarball, tmp_path: Path
) -> None:
    patch = write_patch(tmp_path, "cookie", FITS)
    tree = patched(store, tarball, [patch])
    inode = (tree / "Makefile").parent.stat().st_ino
    assert patched(store, tarball, [patch]) == tree
    assert tree.stat().st_ino == inode
    patch.file.write_text(FITS.replace("int cookie;", "long cookie;"))
    other = patched(store, tarball, [patch])
    assert other != tree
    assert (other / "arch/mips/cookie.c").read_text() == "long cookie;\n"


@pytest.mark.parametrize("how", ["changed", "cut", "gone", "more"])
@pytest.mark.parametrize("with_patch", [False, True])
def test_a_damaged_source_is_not_built_from(
    how: str, with_patch: bool, store: Store, tarball: Tarball, tmp_path: Path
) -> None:
    patches = [write_patch(tmp_path, "cookie", FITS)] if with_patch else []
    tree = patched(store, tarball, patches)
    damaged(tree / "Kconfig", how)
    with pytest.raises(DamagedStore) as raised:
        patched(store, tarball, patches)
    assert raised.value.summary.startswith("the tree of sources/")
    assert "store verify --remove" in raised.value.evidence.next_step
    assert verify(store)


def damaged(path: Path, how: str) -> None:
    """Change a file, or what is beside it, as a bad disk or a careless person would."""
    if how == "gone":
        path.unlink()
    elif how == "more":
        path.with_name("more.c").write_text("int more;")
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] if how == "cut" else bytes([content[0] ^ 1]) + content[1:])


def test_patches_are_applied_in_their_order(store: Store, tarball: Tarball, tmp_path: Path) -> None:
    first = write_patch(tmp_path, "first", FITS)
    second = write_patch(
        tmp_path,
        "second",
        "--- a/arch/mips/cookie.c\n+++ b/arch/mips/cookie.c\n@@ -1 +1 @@\n-int cookie;\n+long c;\n",
    )
    tree = patched(store, tarball, [first, second])
    assert (tree / "arch/mips/cookie.c").read_text() == "long c;\n"
    with pytest.raises(BuildFailed, match=r"the patch second does not apply"):
        patched(store, tarball, [second, first])


@pytest.mark.parametrize("text", [DOES_NOT_FIT, NEEDS_FUZZ], ids=["does-not-fit", "needs-fuzz"])
def test_a_patch_that_does_not_apply_shows_its_reject(
    text: str, store: Store, tarball: Tarball, tmp_path: Path
) -> None:
    patch = write_patch(tmp_path, "cookie", text)
    with pytest.raises(BuildFailed) as failed:
        patched(store, tarball, [patch])
    assert failed.value.summary == "the patch cookie does not apply"
    assert failed.value.evidence.where == ("malta.yaml:9:5", str(patch.file))
    assert failed.value.evidence.seen == "arch/mips/prom.c: hunk 1, at line 1"
    fuzzy = text is NEEDS_FUZZ
    assert ("`fuzz: 2`" in failed.value.evidence.next_step) == fuzzy
    assert "Hunk #1 FAILED" in failed.value.evidence.excerpt
    assert "+\tcheck_cookie();" in failed.value.evidence.excerpt
    assert entries(store) == [f"sources/{tarball.digest}"]
    assert (unpacked(store, tarball) / "arch/mips/prom.c").read_text() == PROM


def test_a_patch_that_is_in_already_is_refused(
    store: Store, tarball: Tarball, tmp_path: Path
) -> None:
    patch = write_patch(tmp_path, "cookie", FITS)
    with pytest.raises(BuildFailed, match=r"the patch cookie does not apply"):
        patched(store, tarball, [patch, patch])


def test_fuzz_may_be_allowed(store: Store, tarball: Tarball, tmp_path: Path) -> None:
    patch = write_patch(tmp_path, "cookie", NEEDS_FUZZ)
    tree = patched(store, tarball, [replace(patch, fuzz=2)])
    assert "check_cookie" in (tree / "arch/mips/prom.c").read_text()


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2", "zst"])
def test_compressed_patches(suffix: str, store: Store, tarball: Tarball, tmp_path: Path) -> None:
    plain = write_patch(tmp_path, "cookie", FITS).file
    program = {"gz": "gzip", "xz": "xz", "bz2": "bzip2", "zst": "zstd"}[suffix]
    try:
        run([program, plain], timeout_s=60)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    file = tmp_path / f"cookie.patch.{suffix}"
    patch = Patch(name="cookie", file=file, where="")
    tree = patched(store, tarball, [patch])
    assert "check_cookie" in (tree / "arch/mips/prom.c").read_text()
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(BadInput, match="the patch cookie cannot be unpacked"):
        patched(store, tarball, [patch])


def test_a_patch_for_a_file_that_is_not_there(
    store: Store, tarball: Tarball, tmp_path: Path
) -> None:
    patch = write_patch(tmp_path, "cookie", FITS.replace("prom.c", "absent.c"))
    with pytest.raises(BuildFailed) as failed:
        patched(store, tarball, [patch])
    assert failed.value.evidence.seen == "a file that is not in the tree, named in line 6"


def test_a_patch_that_leads_out_of_the_tree(store: Store, tarball: Tarball, tmp_path: Path) -> None:
    text = "--- /dev/null\n+++ b/../../../../evil.c\n@@ -0,0 +1 @@\n+evil\n"
    with pytest.raises(BuildFailed):
        patched(store, tarball, [write_patch(tmp_path, "evil", text)])
    assert not list(tmp_path.rglob("evil.c"))
