"""FIFOs, sockets and devices in a tree of others, where files are: refused, and nothing waits."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.config.model import ModprobeConfig
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.fetch.tree_copy import digests_below
from pytest_kernelvm.foreign.files import read_regular, regular_content
from pytest_kernelvm.guest.initramfs import guest_entries
from pytest_kernelvm.guest.programs import Abi, GuestPrograms
from pytest_kernelvm.kernel.out_of_tree.directory import sources_of
from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.tree import ModuleTree
from tests.unit.hostile import Scratch, make_scratch, refused
from tests.unit.test_modules_bad_input import FIELDS
from tests.unit.test_modules_modinfo import X86_64, make_module
from tests.unit.test_modules_tree import make_tree
from tests.unit.test_prebuilt import write_root


def make_socket(path: Path) -> None:
    """Bind a socket where a file was; a relative path is never too long for it."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "it is a FIFO, no regular file"),
    "socket": (make_socket, "it is a socket, no regular file"),
    "link to a FIFO": (link_to_fifo, "it is a FIFO, no regular file"),
    "link to a device": (
        lambda path: path.symlink_to("/dev/zero"),
        "it is a character device, no regular file",
    ),
    "directory": (Path.mkdir, "it is a directory, no regular file"),
}
FILES = (
    "modules.dep",
    "modules.alias",
    "modules.softdep",
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.weakdep",
)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return make_scratch(tmp_path)


@pytest.fixture
def tree(scratch: Scratch) -> Path:
    """Return a module tree that is given to the command."""
    made = make_tree(scratch.inside, {"a": ["b"], "b": []}, builtin=["c"]).directory
    for name in "ab":
        (made / f"kernel/{name}.ko").write_bytes(make_module(X86_64, FIELDS))
    (scratch.inside / "firmware").mkdir()
    return made


def replace(path: Path, kind: str) -> str:
    """Put something special where a file is; return what is said of it."""
    make, said = SPECIAL[kind]
    path.unlink(missing_ok=True)
    make(path)
    return said


def test_the_tree_is_right(scratch: Scratch, tree: Path) -> None:
    done = scratch.kernelvm("closure", "--tree", tree, "--firmware", "firmware", "a", "c")
    assert (done.status, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", FILES)
def test_metadata(name: str, kind: str, scratch: Scratch, tree: Path) -> None:
    said = replace(tree / name, kind)
    done = refused(scratch, "closure", "--tree", tree, "--allow-missing", "c", "a", "c", says=said)
    assert str(tree / name) in done.stderr


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("words", [("--firmware", "firmware"), ("--output", "out")], ids=str)
def test_a_module(words: tuple[str, ...], kind: str, scratch: Scratch, tree: Path) -> None:
    said = replace(tree / "kernel/a.ko", kind)
    if "--output" in words:
        (scratch.inside / "out/lib/modules").mkdir(parents=True)
    done = refused(scratch, "closure", "--tree", tree, *words, "a", says=said)
    assert str(tree / "kernel/a.ko") in done.stderr


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "directory"])
def test_a_file_of_modprobe_d(kind: str, scratch: Scratch, tree: Path) -> None:
    (scratch.inside / "modprobe.d").mkdir()
    said = replace(scratch.inside / "modprobe.d/x.conf", kind)
    refused(scratch, "closure", "--tree", tree, "--modprobe-d", "modprobe.d", "a", says=said)
    said = replace(scratch.inside / "modprobe.d/x.conf", "fifo")
    file = "modprobe.d/x.conf"
    refused(scratch, "closure", "--tree", tree, "--modprobe-d", file, "a", says=said)


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_module_that_is_packed(kind: str, scratch: Scratch, tree: Path) -> None:
    program = scratch.root / "program"
    program.write_bytes(b"\x7fELF")
    parts = dict.fromkeys(("agent", "modprobe", "preinit", "activate", "terminal"), program)
    abi = Abi(syscalls={}, errnos={}, open_flags={}, ioctls={})
    programs = GuestPrograms(digest="", abi=abi, **parts)
    modules = ModuleTree(tree)
    closure = resolve_closure(modules, ["a"])

    nothing = ModprobeConfig(options=(), blacklist=())

    def pack() -> object:
        return guest_entries(programs, tree=modules, closure=closure, modprobe=nothing, files={})

    assert in_a_child(pack) == "nothing is wrong"
    said = replace(tree / "kernel/a.ko", kind)
    assert in_a_child(pack) == f"cannot read {tree / 'kernel/a.ko'}: {said}"


def in_a_child(work: Callable[[], object]) -> str:
    """Return what is wrong with some work, which has half a minute."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            work()
            os.write(write, b"nothing is wrong")
        except BadInput as error:
            os.write(write, error.summary.encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return said


PLACES = ("kernel/x.ko", "modules.builtin", "modules.dep", "Module.symvers", "kernel/deep/x")


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "directory"])
@pytest.mark.parametrize("place", PLACES)
def test_a_prebuilt_kernel(place: str, kind: str, scratch: Scratch) -> None:
    root = write_root(scratch.inside / "root")
    path = next((root / "lib/modules").iterdir()) / place
    path.parent.mkdir(exist_ok=True)
    said = replace(path, kind)
    (scratch.inside / "evil.yaml").write_text(
        "arch: aarch64\nkernel: {version: '6.1', source: {prebuilt: root}}\n"
    )
    done = refused(scratch, "build", "evil", says=said)
    assert str(path.parent) in done.stderr
    assert not list(scratch.store.glob("kernels/*"))


@pytest.mark.parametrize("kind", [*SPECIAL][:3])
def test_the_table_of_exports_of_a_prebuilt_kernel(kind: str, scratch: Scratch) -> None:
    root = write_root(scratch.inside / "root")
    said = replace(root / "boot/Module.symvers", kind)
    (scratch.inside / "evil.yaml").write_text(
        "arch: aarch64\nkernel: {version: '6.1', source: {prebuilt: root}}\n"
    )
    done = refused(scratch, "build", "evil", says=said)
    assert str(root / "boot/Module.symvers") in done.stderr


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_a_source(kind: str, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("obj-m += x.o\n")
    assert [*digests_below(tmp_path)] == ["Makefile"] == [*sources_of(tmp_path)]
    make, said = SPECIAL[kind]
    make(tmp_path / "x.c")
    named = said.removeprefix("it is ").partition(",")[0]
    for read in (digests_below, sources_of):
        with pytest.raises(BadInput, match=f"x.c is {named}"):
            read(tmp_path)


@pytest.mark.parametrize("size_bytes", [0, 1, 4095, 4096, 4097, 100_000])
def test_what_is_regular_is_read(size_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * size_bytes)
    (tmp_path / "link").symlink_to("x")
    assert regular_content(tmp_path / "link", size_bytes) == b"x" * size_bytes
    with pytest.raises(BadInput, match="it is a symbolic link, no regular file"):
        read_regular(tmp_path / "link", size_bytes, follow=False)
    if size_bytes:
        with pytest.raises(BadInput, match="is too large"):
            read_regular(tmp_path / "x", size_bytes - 1)


def test_what_has_more_than_its_size() -> None:
    """Files of proc(5) say that they are empty."""
    text = Path("/proc/self/status").read_bytes()
    assert regular_content(Path("/proc/self/status"), 1 << 20)[:6] == text[:6]
    with pytest.raises(BadInput, match="is too large"):
        read_regular(Path("/proc/self/status"), 10)
