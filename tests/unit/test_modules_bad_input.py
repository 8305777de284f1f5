"""Trees and files that are damaged: a clear error that names the file, and no hang."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.cli.main import main
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.file_check import check_files
from pytest_kernelvm.modules.firmware import Firmware
from pytest_kernelvm.modules.ko_files import read_ko_files, tree_of_files
from pytest_kernelvm.modules.modprobe import simulate_modprobe
from pytest_kernelvm.modules.pruned_tree import write_pruned_tree
from pytest_kernelvm.modules.tree import ModuleTree
from tests.unit.test_modules_modinfo import KINDS, X86_64, make_module
from tests.unit.test_modules_tree import RELEASE, make_tree

FIELDS = ["depends=", f"vermagic={RELEASE} SMP", "alias=x"]


def real_tree(path: Path) -> ModuleTree:
    """Return a tree whose two modules are ELF files."""
    tree = make_tree(path, {"a": ["b"], "b": []}, alias=["x a"], softdep=["a pre: b"])
    for name in "ab":
        (tree.directory / f"kernel/{name}.ko").write_bytes(make_module(X86_64, FIELDS))
    return tree


METADATA = (
    "modules.dep",
    "modules.alias",
    "modules.softdep",
    "modules.builtin",
    "modules.builtin.modinfo",
    "modules.symbols",
    "modules.weakdep",
    "modules.order",
)


def use(tree: ModuleTree) -> None:
    """Ask a tree for all that it knows."""
    for name in ("a", "x", "nosuch", "symbol:s"):
        tree.classify(name)
        simulate_modprobe(tree, name)
    resolve_closure(tree, ["a"], allow_missing=["b"])


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(METADATA), st.binary(max_size=60))
def test_any_bytes_give_an_answer_or_bad_input(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    tree = real_tree(tmp_path_factory.getbasetemp() / "any")
    (tree.directory / name).write_bytes(content)
    # Any other exception fails the test.
    with contextlib.suppress(BadInput):
        use(ModuleTree(tree.directory))
    (tree.directory / name).unlink()


@pytest.mark.parametrize("name", ["modules.dep", "modules.alias", "modules.softdep"])
@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        pytest.param(lambda text: text[:-3], "middle of a line", id="truncated"),
        pytest.param(lambda text: text + b"\xff\xfe\n", "the byte 0xff", id="not-utf-8"),
        pytest.param(lambda text: text + bytes(9) + b"\n", "a NUL byte", id="zeroes"),
    ],
)
def test_the_file_and_line_are_named(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], seen: str
) -> None:
    tree = real_tree(tmp_path)
    file = tree.directory / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput) as error:
        use(ModuleTree(tree.directory))
    assert error.value.evidence.where[0].startswith(f"{file}:")
    assert seen in error.value.evidence.seen


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        pytest.param(b"not an ELF file at all", "starts with", id="no-elf"),
        pytest.param(b"", "starts with", id="empty"),
        pytest.param(make_module(X86_64, FIELDS)[:100], "section headers", id="cut-off"),
    ],
)
def test_a_file_that_is_no_module(tmp_path: Path, content: bytes, seen: str) -> None:
    tree = real_tree(tmp_path)
    file = tree.directory / "kernel/a.ko"
    file.write_bytes(content)
    for work in (
        lambda: read_ko_files(tree.directory),
        lambda: check_files(resolve_closure(tree, ["a"]).modules, release=RELEASE),
        lambda: resolve_closure(tree, ["a"], firmware_directory=tmp_path),
    ):
        with pytest.raises(BadInput) as error:
            work()
        assert error.value.evidence.where == (str(file),)
        assert seen in error.value.evidence.seen or "section" in error.value.evidence.expected


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_a_section_header_of_2_gigabytes(tmp_path: Path, suffix: str) -> None:
    module = bytearray(make_module(X86_64, FIELDS))
    table_at = struct.unpack_from("<Q", module, 40)[0]
    struct.pack_into("<Q", module, table_at + 64 + 32, 2 << 30)
    data = lzma.compress(module) if suffix else bytes(module)
    tree = make_tree(tmp_path, {"a": []}, suffix=f".ko{suffix}")
    file = tree.directory / f"kernel/a.ko{suffix}"
    file.write_bytes(data)
    with pytest.raises(BadInput) as error:
        check_files(resolve_closure(tree, ["a"]).modules, release=RELEASE)
    assert error.value.evidence.where == (str(file),)
    assert error.value.evidence.expected == "sections inside the file"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_wrong_class_or_byte_order(tmp_path: Path, kind: str) -> None:
    """A MIPS guest's tree with files for x86-64, of each class and byte order."""
    tree = make_tree(tmp_path, {"a": []})
    (tree.directory / "kernel/a.ko").write_bytes(make_module(KINDS[kind], FIELDS))
    with pytest.raises(BadInput) as error:
        check_files(resolve_closure(tree, ["a"]).modules, release=RELEASE, arch=ARCHES["mips"])
    assert "not for machine 8, 32 bits, big-endian" in error.value.evidence.seen
    assert error.value.evidence.where == (str(tree.directory / "kernel/a.ko"),)


def test_a_file_too_large_to_read_is_not_read(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"a": []})
    with (tree.directory / "kernel/a.ko").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(BadInput) as error:
        check_files(resolve_closure(tree, ["a"]).modules, release=RELEASE)
    assert "a file of 8589934592 bytes" in error.value.evidence.seen


def test_files_that_need_each_other(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {})
    for name, needs in (("a", "b"), ("b", "c"), ("c", "b")):
        module = make_module(X86_64, [f"depends={needs}"])
        (tree.directory / f"kernel/{name}.ko").write_bytes(module)
    with pytest.raises(BadInput, match="depend on each other: a → b → c → b"):
        tree_of_files(tree.directory)


def test_no_firmware_directory(tmp_path: Path) -> None:
    tree = real_tree(tmp_path)
    with pytest.raises(BadInput, match="no firmware directory"):
        resolve_closure(tree, ["a"], firmware_directory=tmp_path / "none")


@pytest.mark.parametrize(
    ("links", "refused"),
    [
        pytest.param({"f.bin": "f.bin"}, True, id="loop"),
        pytest.param({"f.bin": "g.bin", "g.bin": "f.bin"}, True, id="loop-of-two"),
        pytest.param({"f.bin": "../../etc/passwd"}, True, id="leaves-the-directory"),
        pytest.param({"f.bin": "/etc/passwd"}, True, id="absolute"),
        pytest.param({"f.bin": "nowhere"}, False, id="dangling"),
        pytest.param({"f.bin": "dir/../x/real.bin", "dir": "."}, True, id="leaves-by-a-link"),
        pytest.param({"f.bin": "dir/real.bin", "dir": "."}, False, id="through-a-directory"),
    ],
)
def test_links_of_firmware(tmp_path: Path, links: dict[str, str], refused: bool) -> None:
    tree = real_tree(tmp_path)
    fields = [*FIELDS, "firmware=f.bin"]
    (tree.directory / "kernel/b.ko").write_bytes(make_module(X86_64, fields))
    place = tmp_path / "firmware"
    place.mkdir()
    (place / "real.bin").write_bytes(b"x")
    for name, text in links.items():
        (place / name).symlink_to(text)
    if refused:
        with pytest.raises(BadInput, match="leads nowhere") as error:
            resolve_closure(tree, ["b"], firmware_directory=place)
        assert error.value.evidence.where == (str(place / "f.bin"),)
        return
    firmware: Firmware = resolve_closure(tree, ["b"], firmware_directory=place).firmware
    there = (place / "f.bin").exists()
    assert bool(firmware.missing) != there
    assert ("real.bin" in {file.relative for file in firmware.files}) == there


def test_a_pruned_tree_is_not_written_over_another(tmp_path: Path) -> None:
    tree = real_tree(tmp_path / "full")
    closure = resolve_closure(tree, ["a"])
    place = write_pruned_tree(tree, closure, tmp_path / "out")
    (place / "mine").write_text("kept")
    with pytest.raises(BadInput, match="is there already"):
        write_pruned_tree(tree, closure, tmp_path / "out")
    assert (place / "mine").read_text() == "kept"


def test_a_pruned_tree_is_whole_or_not_there(tmp_path: Path) -> None:
    tree = real_tree(tmp_path / "full")
    closure = resolve_closure(tree, ["a"])
    (tree.directory / "kernel/a.ko").unlink()
    with pytest.raises(BadInput, match="cannot be written") as error:
        write_pruned_tree(tree, closure, tmp_path / "out")
    assert "kernel/a.ko" in error.value.evidence.where[0]
    assert list((tmp_path / "out/lib/modules").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        write_pruned_tree(tree, closure, tmp_path / "file")


def test_the_verb_refuses_what_a_kernel_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = real_tree(tmp_path)
    argv = ["closure", "a", "--tree", str(tree.directory), "--output", str(tmp_path / "out")]
    assert main(argv) == 0
    capsys.readouterr()
    assert (tmp_path / "out/load.sh").read_text().splitlines()[2:] == [
        f"insmod /lib/modules/{RELEASE}/kernel/b.ko",
        f"insmod /lib/modules/{RELEASE}/kernel/a.ko",
    ]
    shutil.rmtree(tmp_path / "out")
    stranger = make_module(X86_64, ["vermagic=5.10.0 SMP"])
    (tree.directory / "kernel/b.ko").write_bytes(stranger)
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "would refuse 1 of 2 modules" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()
