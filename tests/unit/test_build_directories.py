"""Kept build directories: a small make project stands for the kernel."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm.errors import BadInput, BuildFailed
from pytest_kernelvm.fetch.tree_copy import (
    OBJECTS,
    content_digest,
    digests_below,
    files_below,
    update_copy,
    update_linked_copy,
)
from pytest_kernelvm.kernel.build.build_directories import (
    NOTE,
    BuildDirectory,
    BuildRequest,
    evict_build_directories,
    open_build_directory,
)
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.kinds import BUILDS, Limits
from pytest_kernelvm.store.store import Store

# As kbuild: objects know the header that they were made from, and the .config.
MAKEFILE = """\
.objects/%.o: %.c shared.h .objects/.config
	cat $< shared.h .objects/.config > $@
	echo $* >> .objects/made
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


def write_source(tree: Path, **files: str) -> Path:
    tree.mkdir(parents=True)
    (tree / "Makefile").write_text(MAKEFILE)
    for name in ("one.c", "two.c", "shared.h"):
        (tree / name).write_text(files.get(name.replace(".", "_"), name))
        # Older than any object, as the files of a tarball are.
        os.utime(tree / name, (1, 1))
    return tree


@pytest.fixture
def build_request(store: Store) -> BuildRequest:
    tree = write_source(store.root / "sources" / "plain" / "tree")
    return BuildRequest(
        tree=tree, family="f", series="6.12", state="plain", config="CONFIG_A=y\n", toolchain="gcc"
    )


def make(build_directory: BuildDirectory) -> list[str]:
    """Build, and return which objects were made."""
    made = build_directory.objects / "made"
    made.unlink(missing_ok=True)
    run(["make", "-C", build_directory.tree, ".objects/one.o", ".objects/two.o"], timeout_s=60)
    return made.read_text().split() if made.is_file() else []


def build(store: Store, build_request: BuildRequest) -> tuple[list[str], BuildDirectory]:
    with open_build_directory(store, build_request, "the kernel") as build_directory:
        return make(build_directory), build_directory


def contents(build_directory: BuildDirectory) -> dict[str, str]:
    return {path.name: path.read_text() for path in build_directory.objects.glob("*.o")}


def from_nothing(build_request: BuildRequest, root: Path) -> dict[str, str]:
    with open_build_directory(
        Store(root, Silent()), build_request, "the kernel"
    ) as build_directory:
        make(build_directory)
        return contents(build_directory)


def test_a_first_build_starts_from_nothing(store: Store, build_request: BuildRequest) -> None:
    made, build_directory = build(store, build_request)
    assert made == ["one", "two"]
    assert (build_directory.changed, build_directory.parent) == (None, "")
    assert (build_directory.tree / "one.c").samefile(build_request.tree / "one.c")
    assert not (build_request.tree / OBJECTS).exists()


def test_the_same_kernel_again_compiles_nothing(store: Store, build_request: BuildRequest) -> None:
    build(store, build_request)
    made, build_directory = build(store, build_request)
    assert made == []
    assert build_directory.changed == ()


@pytest.mark.parametrize("same", [True, False])
def test_a_changed_build_directory_is_not_used(
    same: bool, store: Store, build_request: BuildRequest, tmp_path: Path
) -> None:
    """make would take an object that is younger than its source for its own."""
    _made, build_directory = build(store, build_request)
    (build_directory.objects / "one.o").write_text("damage")
    other = build_request if same else replace(build_request, config="CONFIG_A=y\nCONFIG_B=m\n")
    made, build_directory = build(store, other)
    assert made == ["one", "two"]
    assert (build_directory.changed, build_directory.parent) == (None, "")
    assert contents(build_directory) == from_nothing(other, tmp_path / "other")


def test_another_configuration_starts_from_a_copy(
    store: Store, build_request: BuildRequest, tmp_path: Path
) -> None:
    _made, first = build(store, build_request)
    before = contents(first)
    other = replace(build_request, config="CONFIG_A=y\nCONFIG_B=m\n")
    made, build_directory = build(store, other)
    assert made == ["one", "two"]
    assert build_directory.parent == build_request.name
    assert contents(build_directory) == from_nothing(other, tmp_path / "other")
    assert contents(first) == before


def test_the_nearest_build_directory_is_copied(store: Store, build_request: BuildRequest) -> None:
    near = replace(build_request, config="CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n")
    build(store, replace(build_request, config="CONFIG_Z=y\n"))
    build(store, near)
    _made, build_directory = build(store, replace(near, config=near.config + "CONFIG_D=y\n"))
    assert build_directory.parent == near.name


def test_a_locked_build_directory_is_waited_for(store: Store, build_request: BuildRequest) -> None:
    build(store, build_request)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock(f"{BUILDS}-{build_request.name}", "a copy"):
            held.set()
            over.wait(60)

    with ThreadPoolExecutor(2) as pool:
        holding = pool.submit(hold)
        assert held.wait(60)
        building = pool.submit(build, store, replace(build_request, config="CONFIG_B=y\n"))
        assert not wait([building], timeout=1).done
        over.set()
        _made, build_directory = building.result(60)
        holding.result(60)
    assert build_directory.parent == build_request.name


@pytest.mark.parametrize("changes", [{"toolchain": "other"}, {"family": "other", "series": "6.13"}])
def test_another_series_or_compiler_starts_from_nothing(
    changes: dict[str, str], store: Store, build_request: BuildRequest
) -> None:
    build(store, build_request)
    made, build_directory = build(store, replace(build_request, **changes))  # type: ignore[arg-type]
    assert build_directory.parent == ""
    assert made == ["one", "two"]


@pytest.mark.parametrize("following", [False, True], ids=["to a fixed one", "to a working tree"])
@pytest.mark.parametrize("followed", [False, True], ids=["from a fixed one", "from a working tree"])
def test_another_source_of_the_series_is_copied(
    followed: bool, following: bool, store: Store, build_request: BuildRequest, tmp_path: Path
) -> None:
    """Its files are older than the objects of the other one, whether they differ or not."""
    files = digests_below(build_request.tree) if followed else None
    build(store, replace(build_request, family="other", state="other", files=files))
    tree = write_source(store.root / "sources" / "mine" / "tree", one_c="mine")
    (tree / "two.c").chmod(0o664)
    mine = replace(build_request, tree=tree, files=digests_below(tree) if following else None)
    made, build_directory = build(store, mine)
    assert build_directory.parent
    assert made == ["one"]
    assert contents(build_directory) == from_nothing(mine, tmp_path / "nothing")
    assert (tree / "one.c").stat().st_mtime == 1
    # From now on it is followed as one that was built from nothing is.
    (tree / "two.c").unlink()
    (tree / "two.c").write_text("edited")
    again = replace(mine, files=digests_below(tree) if following else None)
    assert build(store, again)[0] == ["two"]
    assert (build_request.tree / "two.c").read_text() == "two.c"


def test_a_build_of_the_same_source_is_preferred(store: Store, build_request: BuildRequest) -> None:
    own = replace(build_request, config="CONFIG_A=y\nCONFIG_B=y\n")
    build(store, own)
    build(
        store,
        replace(build_request, family="other", state="other", config="CONFIG_A=y\nCONFIG_C=y\n"),
    )
    _made, build_directory = build(
        store, replace(build_request, config="CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=y\n")
    )
    assert build_directory.parent == own.name


def test_a_patched_source_starts_from_the_unpatched_one(
    store: Store, build_request: BuildRequest, tmp_path: Path
) -> None:
    """Its file is older than the objects, as one that was patched before they were made."""
    patched = write_source(store.root / "sources" / "patched" / "tree", one_c="patched")
    build(store, build_request)
    other = replace(build_request, tree=patched, state="patched")
    made, build_directory = build(store, other)
    assert made == ["one"]
    assert build_directory.changed == ("one.c",)
    assert contents(build_directory) == from_nothing(other, tmp_path / "other")
    assert (build_request.tree / "one.c").read_text() == "one.c"
    assert (patched / "one.c").stat().st_mtime == 1


def test_a_failed_build_is_continued(store: Store, build_request: BuildRequest) -> None:
    def fail() -> None:
        with open_build_directory(store, build_request, "the kernel") as build_directory:
            run(["make", "-C", build_directory.tree, ".objects/one.o"], timeout_s=60)
            raise BuildFailed("the second does not compile")

    with pytest.raises(BuildFailed):
        fail()
    made, again = build(store, build_request)
    assert made == ["two"]
    assert again.changed == ()


def test_an_interrupted_build_directory_is_not_used(
    store: Store, build_request: BuildRequest
) -> None:
    def interrupted() -> None:
        with open_build_directory(store, build_request, "the kernel") as build_directory:
            make(build_directory)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not store.path(BUILDS, build_request.name).exists()


def test_the_build_directory_of_a_killed_process_is_not_used(
    store: Store, build_request: BuildRequest
) -> None:
    _made, build_directory = build(store, build_request)
    (build_directory.tree.parent / NOTE).unlink()
    (build_directory.objects / "one.o").write_text("half an obj")
    made, again = build(store, build_request)
    assert made == ["one", "two"]
    assert contents(again)["one.o"].startswith("one.c")
    (build_directory.tree.parent / NOTE).unlink()
    _made, other = build(store, replace(build_request, config="CONFIG_B=y\n"))
    assert other.parent == ""


# Working trees


def digests(tree: Path) -> dict[str, str]:
    return {name: content_digest(tree / name) for name in files_below(tree)}


def test_a_changed_file_compiles_one_object(store: Store, build_request: BuildRequest) -> None:
    """As the copy of a working tree does: its files are replaced."""
    build(store, replace(build_request, files=digests(build_request.tree)))
    two = build_request.tree / "two.c"
    two.unlink()
    two.write_text("TWO.C")
    made, build_directory = build(store, replace(build_request, files=digests(build_request.tree)))
    assert made == ["two"]
    assert build_directory.changed == ("two.c",)
    assert contents(build_directory)["two.o"].startswith("TWO.C")
    assert (build_directory.tree / "two.c").samefile(two)


def test_an_edit_while_it_is_copied_is_noticed(tmp_path: Path) -> None:
    tree = write_source(tmp_path / "linux")
    found = digests(tree)
    (tree / "two.c").write_text("TWO.C")
    with pytest.raises(BadInput, match="changes while it is built"):
        update_copy(tree, tmp_path / "copy", found, {})


def test_copies_are_updated(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    (source / "below").mkdir()
    (source / "below" / "gone").write_text("")
    (source / "link").symlink_to("one.c")
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").write_text("")
    copy = tmp_path / "copy"
    before = digests(source)
    assert set(update_copy(source, copy, before, {})) == set(before)
    assert digests(copy) == before
    (source / "below" / "gone").unlink()
    (source / "one.c").chmod(0o755)
    (source / "link").unlink()
    (source / "link").symlink_to("two.c")
    after = digests(source)
    assert update_copy(source, copy, after, before) == ("below/gone", "link", "one.c")
    assert digests(copy) == after
    assert update_linked_copy(source, copy) == ()
    (source / "new.c").write_text("new")
    assert update_linked_copy(source, copy) == ("new.c",)


# Bounds


def age(store: Store, build_request: BuildRequest, seconds: int) -> None:
    os.utime(store.path(BUILDS, build_request.name) / NOTE, (seconds, seconds))


def test_the_oldest_are_evicted(store: Store, build_request: BuildRequest) -> None:
    several = [replace(build_request, config=f"CONFIG_{name}=y\n") for name in "ABC"]
    for seconds, each in enumerate(several):
        build(store, each)
        age(store, each, seconds)
    assert evict_build_directories(store, limits=Limits(most=2)) == (several[0].name,)
    assert evict_build_directories(store, limits=Limits(most=2)) == ()
    with store.lock(f"builds-{several[1].name}", "the kernel"):
        assert evict_build_directories(store, limits=Limits(most=0)) == (several[2].name,)
    assert evict_build_directories(store, limits=Limits(most_bytes=0)) == (several[1].name,)


def test_the_last_one_of_a_source_and_toolchain_goes_last(
    store: Store, build_request: BuildRequest
) -> None:
    """A parent is not used while others' variants are built, and its own come later."""
    parent = replace(build_request, toolchain="another")
    variants = [replace(build_request, config=f"CONFIG_{letter}=y\n") for letter in "ABC"]
    for seconds, each in enumerate((parent, *variants)):
        build(store, each)
        age(store, each, seconds)
    gone = evict_build_directories(store, limits=Limits(most=2))
    assert sorted(gone) == sorted(each.name for each in variants[:2])
    assert evict_build_directories(store, limits=Limits(most=1)) == (parent.name,)


def test_record_made_is_for_the_next_build_only(store: Store, build_request: BuildRequest) -> None:
    def making(text: str, build_request: BuildRequest = build_request) -> str:
        with open_build_directory(store, build_request, "the kernel") as build_directory:
            make(build_directory)
            if text == "fails":
                raise BuildFailed("no")
            build_directory.record_made(text)
            return build_directory.made

    assert making("first") == ""
    assert making("second") == "first"
    # A copy has made nothing yet.
    assert making("copy", replace(build_request, config="CONFIG_B=y\n")) == ""
    with pytest.raises(BuildFailed):
        making("fails")
    assert making("third") == ""
