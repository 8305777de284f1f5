"""Tarballs of all compressions, hostile ones, commits and working trees."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.config.sources import Source, source_named
from pytest_kernelvm.errors import BadInput, BuildFailed, ToolMissing
from pytest_kernelvm.fetch.tarball import Tarball
from pytest_kernelvm.fetch.tree_copy import content_digest, files_below
from pytest_kernelvm.kernel.source.commit import Commit
from pytest_kernelvm.kernel.source.mirror import mirrored
from pytest_kernelvm.kernel.source.source import kernel_version, locate, unpacked
from pytest_kernelvm.kernel.source.worktree import RACY_S, WorkingTree, read_tree
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.digest import file_digest
from pytest_kernelvm.store.store import Store
from tests.unit.test_source import FILES, FITS, MAKEFILE, make_tarball, write_patch


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


def leftovers(store: Store) -> list[Path]:
    return [*store.root.glob("tmp/*"), *store.root.glob("sources/*")]


# Tarballs


@pytest.mark.parametrize(
    ("suffix", "argv"),
    [
        ("gz", ["gzip"]),
        ("bz2", ["bzip2"]),
        ("zst", ["zstd", "--quiet", "--rm"]),
        ("xz", ["xz"]),
    ],
)
def test_all_compressions(suffix: str, argv: list[str], store: Store, tmp_path: Path) -> None:
    packed = make_tarball(tmp_path / "linux.tar.xz", FILES).path
    run(["xz", "--decompress", packed], timeout_s=60)
    try:
        run([*argv, tmp_path / "linux.tar"], timeout_s=60)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    source = Source(kind="tarball", value=str(tmp_path / f"linux.tar.{suffix}"), where="")
    assert kernel_version(unpacked(store, locate(store, source))) == "6.12.30"


def hostile(path: Path, add: Callable[[tarfile.TarFile], None]) -> Tarball:
    """Write a tarball that looks like a kernel's, with something more."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in FILES.items():
            put(tar, f"linux/{name}", text)
        add(tar)
    return Tarball(path=path, digest=file_digest(path))


def put(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text)
    tar.addfile(member, io.BytesIO(text.encode()))


def put_link(tar: tarfile.TarFile, name: str, aim: str, kind: bytes = tarfile.SYMTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = aim
    tar.addfile(member)


def put_through_link(tar: tarfile.TarFile) -> None:
    put_link(tar, "linux/out", "../../../../outside")
    put(tar, "linux/out/evil", "evil")


@pytest.mark.parametrize(
    "add",
    [
        lambda tar: put(tar, "linux/../../../../evil", "evil"),
        lambda tar: put_link(tar, "linux/link", "../../../evil"),
        lambda tar: put_link(tar, "linux/link", "/etc/passwd"),
        lambda tar: put_link(tar, "linux/link", "linux/../../../../evil", tarfile.LNKTYPE),
        put_through_link,
    ],
    ids=["dots", "link-with-dots", "absolute-link", "hard-link", "through-a-link"],
)
def test_nothing_leads_out_of_a_tarball(
    add: Callable[[tarfile.TarFile], None], store: Store, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    tarball = hostile(tmp_path / "evil.tar.gz", add)
    with pytest.raises(BadInput) as bad:
        unpacked(store, tarball)
    assert "evil.tar.gz" in bad.value.summary
    assert leftovers(store) == []
    assert not list(tmp_path.rglob("evil"))
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_within_a_tarball_stay(store: Store, tmp_path: Path) -> None:
    tarball = hostile(
        tmp_path / "good.tar.gz", lambda tar: put_link(tar, "linux/a/b", "../Kconfig")
    )
    assert (unpacked(store, tarball) / "a/b").readlink() == Path("../Kconfig")


def test_a_local_tarball_with_another_hash(store: Store, tmp_path: Path) -> None:
    path = make_tarball(tmp_path / "linux.tar.xz", FILES).path
    source = Source(kind="tarball", value=str(path), where="m.yaml:4:5", sha256="0" * 64)
    with pytest.raises(BadInput, match="is not the expected file") as bad:
        locate(store, source)
    assert bad.value.evidence.where == ("m.yaml:4:5",)


# Git


def write_files(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def git(repository: Path, *words: str) -> str:
    env = {
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    return run(["git", "-C", repository, *words], env=env, timeout_s=60).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: the tag v6.12.30, and the branch work, which is checked out and dirty."""
    path = tmp_path / "linux"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=work")
    write_files(path, FILES)
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "one")
    git(path, "tag", "v6.12.30")
    write_files(path, {"Makefile": MAKEFILE.replace("SUBLEVEL = 30", "SUBLEVEL = 31")})
    git(path, "commit", "--quiet", "-am", "two")
    (path / "Kconfig").write_text("dirty")
    git(path, "add", "Kconfig")
    return path


def commit_of(store: Store, value: str, ref: str) -> Commit:
    found = locate(store, Source(kind="git", value=value, where="m.yaml:1:1", ref=ref))
    assert isinstance(found, Commit)
    return found


@pytest.mark.parametrize("is_url", [False, True])
def test_any_commit(is_url: bool, store: Store, repository: Path) -> None:
    value = f"file://{repository}" if is_url else str(repository)
    before = git(repository, "status", "--porcelain")
    index = (repository / ".git" / "index").read_bytes()
    first = git(repository, "rev-parse", "v6.12.30")
    versions = {
        ref: kernel_version(unpacked(store, commit_of(store, value, ref)))
        for ref in ("v6.12.30", "work", first, "")
    }
    assert versions == {
        "v6.12.30": "6.12.30",
        "work": "6.12.31",
        first: "6.12.30",
        "": "6.12.31",
    }
    assert commit_of(store, value, "v6.12.30").digest == commit_of(store, value, first).digest
    assert commit_of(store, value, "work").family == commit_of(store, value, first).family
    assert git(repository, "status", "--porcelain") == before
    assert (repository / ".git" / "index").read_bytes() == index
    tree = unpacked(store, commit_of(store, value, "work"))
    assert (tree / "Kconfig").read_text() == FILES["Kconfig"]


@pytest.mark.parametrize("is_url", [False, True])
def test_an_unknown_ref(is_url: bool, store: Store, repository: Path) -> None:
    value = f"file://{repository}" if is_url else str(repository)
    with pytest.raises(BadInput, match=r"has no .*'v9\.99'") as bad:
        commit_of(store, value, "v9.99")
    assert bad.value.evidence.where == ("m.yaml:1:1",)


def test_no_repository(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is no git repository"):
        commit_of(store, str(tmp_path / "empty"), "")
    with pytest.raises(BadInput, match="does not exist"):
        commit_of(store, str(tmp_path / "absent"), "")
    with pytest.raises(ToolMissing, match="cannot be fetched"):
        commit_of(store, f"file://{tmp_path}/absent", "")


def test_a_repository_that_is_gone_serves_from_the_store(store: Store, repository: Path) -> None:
    value = f"file://{repository}"
    found = commit_of(store, value, "work")
    repository.rename(repository.with_name("elsewhere"))
    assert commit_of(store, value, "work") == found


# Working trees


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    write_files(path, {**FILES, ".git/HEAD": "ref", "init/main.c": "int main;\n"})
    long_ago = time.time_ns() - int(10e9 * RACY_S)
    for each in path.rglob("*"):
        os.utime(each, ns=(long_ago, long_ago))
    return path


def touch(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def remove(path: Path, _text: str) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("name", "change", "decides"),
    [
        ("init/main.c", touch, False),
        ("init/main.h", touch, False),
        ("init/main.c", remove, False),
        ("Kconfig", touch, True),
        ("init/Makefile", touch, True),
        ("scripts/cc-can-link.c", touch, True),
        ("arch/mips/configs/malta_defconfig", touch, True),
        ("init/main.c", lambda path, _text: path.chmod(0o755), False),
    ],
)
def test_every_change_of_a_working_tree_changes_its_digest(
    name: str, change: Callable[[Path, str], None], decides: bool, store: Store, tree: Path
) -> None:
    before = read_tree(store, tree)
    change(tree / name, "new\n")
    after = read_tree(store, tree)
    assert after.digest != before.digest
    assert (after.config_digest != before.config_digest) == decides


@pytest.mark.parametrize("name", [".git/HEAD", ".git/index", "tags", "init/main.c~", "a.orig"])
def test_files_of_editors_do_not_change_the_digest(name: str, store: Store, tree: Path) -> None:
    before = read_tree(store, tree)
    touch(tree / name, "new")
    assert read_tree(store, tree) == before


def test_an_edit_that_leaves_size_and_time_is_seen(store: Store, tree: Path) -> None:
    """Within the granularity of the clock, right after the tree was read."""
    path = tree / "init/main.c"
    path.write_text("one")
    before = read_tree(store, tree)
    about = path.stat()
    path.write_text("two")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert read_tree(store, tree).digest != before.digest


def test_the_same_files_have_the_same_digest_elsewhere(
    store: Store, tree: Path, tmp_path: Path
) -> None:
    before = read_tree(store, tree)
    tree.rename(tmp_path / "moved")
    moved = read_tree(store, tmp_path / "moved")
    assert moved.digest == before.digest
    assert moved.family != before.family


@pytest.mark.parametrize("name", [".config", "include/config/auto.conf"])
def test_leftovers_of_a_build(name: str, store: Store, tree: Path) -> None:
    touch(tree / name, "")
    with pytest.raises(BadInput, match="contains files of an earlier build") as bad:
        read_tree(store, tree)
    assert "mrproper" in bad.value.evidence.next_step


def test_a_directory_that_is_no_tree(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a directory"):
        read_tree(store, tmp_path / "absent")
    touch(tmp_path / "hello" / "hello.c", "")
    source = Source(kind="tree", value=str(tmp_path / "hello"), where="m.yaml:4:18")
    with pytest.raises(BadInput, match="hello is not a kernel tree") as bad:
        locate(store, source)
    assert bad.value.evidence.where == ("m.yaml:4:18",)
    assert not store.root.exists(), "nothing was read"


def test_patches_go_to_a_copy_of_a_working_tree(store: Store, tree: Path, tmp_path: Path) -> None:
    patch = write_patch(tmp_path, "p", FITS)
    located = locate(store, Source(kind="tree", value=str(tree), where=""))
    assert isinstance(located, WorkingTree)
    with mirrored(store, located, [patch]) as mirror:
        assert "check_cookie" in (mirror.tree / "arch/mips/prom.c").read_text()
        assert not (mirror.tree / ".git").exists()
        assert {name: content_digest(mirror.tree / name) for name in files_below(mirror.tree)} == (
            mirror.files
        )
    assert (tree / "arch/mips/prom.c").read_text() == FILES["arch/mips/prom.c"]
    assert not (tree / "arch/mips/cookie.c").exists()


def test_the_copy_of_a_working_tree_is_updated(store: Store, tree: Path, tmp_path: Path) -> None:
    patches = [write_patch(tmp_path, "p", FITS)]
    with mirrored(store, read_tree(store, tree), patches) as first:
        kept = {name: (first.tree / name).stat().st_mtime_ns for name in first.files}
    (tree / "init/main.c").write_text("int changed;\n")
    prom = tree / "arch/mips/prom.c"
    prom.write_text(prom.read_text().replace("use_default", "use_other"))
    (tree / "drivers/untouched.c").unlink()
    with mirrored(store, read_tree(store, tree), patches) as second:
        assert (second.tree, second.name) == (first.tree, first.name)
        assert (second.tree / "init/main.c").read_text() == "int changed;\n"
        patched_prom = (second.tree / "arch/mips/prom.c").read_text()
        assert "check_cookie" in patched_prom
        assert "use_other" in patched_prom
        assert not (second.tree / "drivers/untouched.c").exists()
        changed = {n for n in second.files if (second.tree / n).stat().st_mtime_ns != kept[n]}
    assert changed == {"init/main.c", "arch/mips/prom.c"}


def test_a_patch_that_does_not_fit_a_working_tree(store: Store, tree: Path, tmp_path: Path) -> None:
    patch = write_patch(tmp_path, "p", FITS)
    (tree / "arch/mips/prom.c").write_text("other\n")
    located = read_tree(store, tree)
    with pytest.raises(BuildFailed, match="the patch p does not apply"):
        mirrored(store, located, [patch]).__enter__()
    with mirrored(store, located, []) as mirror:
        assert (mirror.tree / "arch/mips/prom.c").read_text() == "other\n"


# As an option


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git:https://user@host/linux.git@v6.12", ("https://user@host/linux.git", "v6.12")),
        ("git:ssh://git@host/linux.git", ("ssh://git@host/linux.git", "")),
        ("git:/src/linux@work", ("/src/linux", "work")),
        ("debian:linux-source-6.12@sid", ("linux-source-6.12", "sid")),
        ("debian:linux-source-6.12", ("linux-source-6.12", "")),
        ("version:6.12.30", ("6.12.30", "")),
        ("tree:/src/linux", ("/src/linux", "")),
    ],
)
def test_sources_as_an_option(text: str, expected: tuple[str, str]) -> None:
    source = source_named(text)
    assert (source.value, source.ref or source.suite) == expected
    assert source.kind == text.partition(":")[0]


@pytest.mark.parametrize("text", ["linux", "tree:", "svn:x", "tarball:https://host/linux.tar.xz"])
def test_an_option_that_names_no_source(text: str) -> None:
    with pytest.raises(BadInput):
        source_named(text)
