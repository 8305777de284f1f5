"""What a module tree on disk says, and what is said of a damaged one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.metadata import Softdep
from pytest_kernelvm.modules.tree import Classification, ModuleTree, NameKind

RELEASE = "6.12.0-test"


def make_tree(
    root: Path,
    modules: Mapping[str, Sequence[str]],
    *,
    alias: Iterable[str] = (),
    softdep: Iterable[str] = (),
    weakdep: Iterable[str] = (),
    builtin: Iterable[str] | None = (),
    modinfo: Iterable[str] = (),
    absent: Collection[str] = (),
    suffix: str = ".ko",
) -> ModuleTree:
    """Write a tree by hand, over one that may be there.

    modules: name → what its line in modules.dep lists, in its order. alias, softdep, weakdep: lines
    without their first word. builtin: names; None leaves modules.builtin away. modinfo: entries of
    modules.builtin.modinfo. absent: modules whose files are not there.
    """
    directory = root / "lib" / "modules" / RELEASE
    (directory / "kernel").mkdir(parents=True, exist_ok=True)
    for name in modules:
        file = directory / f"kernel/{name}{suffix}"
        if name not in absent and not file.exists():
            file.write_text(f"module {name}")
    write_lines(
        directory / "modules.dep",
        (
            " ".join([f"kernel/{name}{suffix}:", *(f"kernel/{need}{suffix}" for need in needs)])
            for name, needs in modules.items()
        ),
    )
    for word, lines in (("alias", alias), ("softdep", softdep), ("weakdep", weakdep)):
        write_lines(directory / f"modules.{word}", ["# header", *(f"{word} {x}" for x in lines)])
    if builtin is not None:
        write_lines(directory / "modules.builtin", (f"kernel/{name}.ko" for name in builtin))
    entries = b"".join(entry.encode() + b"\0" for entry in modinfo)
    (directory / "modules.builtin.modinfo").write_bytes(entries)
    return ModuleTree(directory)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file."""
    path.write_text("".join(f"{line}\n" for line in lines))


def test_what_a_tree_says(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path,
        {"nft-ct": ["nf_conntrack", "libcrc32c"], "nf_conntrack": ["libcrc32c"], "libcrc32c": []},
        softdep=["libcrc32c pre: crc32c", "libcrc32c pre: crc-t10dif post: late"],
        weakdep=["nft-ct a b", "nft_ct c"],
        builtin=["fuse", "snd-pcm"],
        modinfo=["fuse.alias=fs-fuse", "fuse.softdep=pre: x", "fuse.description=with = and \xe9"],
    )
    assert tree.release == RELEASE
    assert list(tree.modules) == ["nft_ct", "nf_conntrack", "libcrc32c"]
    assert len(tree.modules) == 3
    module = tree.modules["nft_ct"]
    assert (module.name, module.relative) == ("nft_ct", "kernel/nft-ct.ko")
    assert module.dependencies == ("nf_conntrack", "libcrc32c")
    assert module.size_bytes == len("module nft-ct")
    assert tree.softdeps == {"libcrc32c": Softdep(pre=("crc32c", "crc-t10dif"), post=("late",))}
    assert tree.weakdeps == {"nft_ct": ("a", "b", "c")}
    assert tree.builtin == {"fuse": "kernel/fuse.ko", "snd_pcm": "kernel/snd-pcm.ko"}
    assert tree.builtin_aliases.lookup("fs_fuse") == ("fuse",)
    assert tree.builtin_softdeps == {"fuse": Softdep(pre=("x",))}
    assert str(tree.directory) in repr(tree)


def test_a_tree_reads_only_what_is_asked_for(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"m": []}, builtin=["b"])
    (tree.directory / "modules.alias").write_bytes(b"\xff\n")
    assert "m" in tree.modules
    assert tree.classify("m").kind is NameKind.LOADABLE
    with pytest.raises(BadInput, match=r"modules\.alias is damaged"):
        tree.classify("b")


@pytest.mark.parametrize(
    ("name", "kind", "targets"),
    [
        pytest.param("cmac", NameKind.LOADABLE, ("cmac",), id="case14-module-before-alias"),
        pytest.param("fs-ext4", NameKind.ALIAS, ("ext4",), id="case04-alias"),
        pytest.param("sha256", NameKind.ALIAS, ("sha_a", "sha_b"), id="case17-alias-of-several"),
        pytest.param("zram", NameKind.BUILTIN, ("zram",), id="case23-builtin"),
        pytest.param("loop-alias", NameKind.ALIAS, ("loop",), id="case05-alias-of-builtin"),
        pytest.param("symbol:crc32c", NameKind.ALIAS, ("libcrc32c",), id="case18-symbol"),
        pytest.param("symbol:none", NameKind.MISSING, (), id="case18-unknown-symbol"),
        pytest.param("switched-off", NameKind.OFF, ("off",), id="case19-off"),
        pytest.param("gone", NameKind.FILE_ABSENT, ("gone",), id="case22-file-absent"),
        pytest.param("CMAC", NameKind.MISSING, (), id="case20-upper-case"),
        pytest.param("a[b", NameKind.MISSING, (), id="open-bracket"),
        pytest.param("nosuch", NameKind.MISSING, (), id="missing"),
    ],
)
def test_classify(tmp_path: Path, name: str, kind: NameKind, targets: tuple[str, ...]) -> None:
    tree = make_tree(
        tmp_path,
        {"cmac": [], "ext4": [], "sha_a": [], "sha_b": [], "libcrc32c": [], "gone": []},
        alias=["cmac ext4", "fs-ext4 ext4", "sha256 sha_a", "sha256 sha_b", "switched-off off"],
        builtin=["zram", "loop", "loop"],
        modinfo=["loop.alias=loop-alias"],
        absent=["gone"],
    )
    write_lines(tree.directory / "modules.symbols", ["alias symbol:crc32c libcrc32c"])
    normal = name.replace("-", "_")
    assert tree.classify(name) == Classification(name=normal, kind=kind, targets=targets)


@pytest.mark.parametrize("suffix", [".ko", ".ko.gz", ".ko.xz", ".ko.zst"])
def test_case34_no_compression_is_skipped(tmp_path: Path, suffix: str) -> None:
    tree = make_tree(tmp_path, {"a": ["b"], "b": []}, suffix=suffix)
    assert tree.modules["a"].dependencies == ("b",)
    assert tree.has_file("a")


def test_case25_builtin_names_may_come_twice(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {}, builtin=["a", "b", "a"])
    assert list(tree.builtin) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "line", "seen"),
    [
        pytest.param(b"kernel/a.ko:\nkernel/\xff.ko:\n", 2, "0xff", id="not-utf-8"),
        pytest.param(b"kernel/a.ko:\n\0\0\0\0\n", 2, "NUL", id="zeroes-after-a-crash"),
        pytest.param(b"kernel/a.ko:\nkernel/b.ko: ker", 2, "middle of a line", id="truncated"),
        pytest.param(b"kernel/a.ko:\nhello world\n", 2, "hello world", id="no-colon"),
        pytest.param(b"# x\n\nhello: world\n", 3, "hello: world", id="no-module-file"),
        pytest.param(b"kernel/a.ko:\n/etc/b.ko:\n", 2, "outside", id="case32-absolute"),
        pytest.param(b"kernel/../../b.ko:\n", 1, "outside", id="dot-dot"),
        pytest.param(b"../b.ko:\n", 1, "outside", id="dot-dot-first"),
        pytest.param(b"kernel/ a.ko:\n", 1, "kernel/ a.ko", id="blank-in-a-path"),
        pytest.param(b"kernel/.ko:\n", 1, "kernel/.ko", id="no-name"),
    ],
)
def test_damaged_modules_dep(tmp_path: Path, content: bytes, line: int, seen: str) -> None:
    path = tmp_path / "modules.dep"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        len(ModuleTree(tmp_path).modules)
    assert error.value.evidence.where == (f"{path}:{line}",)
    assert seen in error.value.evidence.seen


@pytest.mark.parametrize(
    ("needed", "seen"),
    [
        pytest.param("/lib/b.ko", "outside", id="case32-absolute"),
        pytest.param("kernel/../../b.ko", "outside", id="dot-dot"),
        pytest.param("kernel/b", "'kernel/b'", id="no-module-file"),
    ],
)
def test_damaged_dependencies(tmp_path: Path, needed: str, seen: str) -> None:
    path = tmp_path / "modules.dep"
    path.write_text(f"kernel/b.ko:\nkernel/a.ko: kernel/b.ko {needed}\n")
    with pytest.raises(BadInput) as error:
        ModuleTree(tmp_path).modules["a"]
    assert error.value.evidence.where == (f"{path}:2",)
    assert seen in error.value.evidence.seen


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        pytest.param("updates/a.ko", "kernel/a.ko and updates/a.ko", id="case31-updates"),
        pytest.param("kernel/a.ko.xz", "kernel/a.ko and kernel/a.ko.xz", id="case33-compressed"),
    ],
)
def test_two_files_of_one_module(tmp_path: Path, other: str, seen: str) -> None:
    path = tmp_path / "modules.dep"
    path.write_text(f"kernel/a.ko:\nkernel/b.ko:\n{other}:\n")
    with pytest.raises(BadInput, match="lists module a twice") as error:
        len(ModuleTree(tmp_path).modules)
    assert error.value.evidence.where == (f"{path}:1", f"{path}:3")
    assert error.value.evidence.seen == seen


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("modules.softdep", b"softdep\n", "softdep MODULE"),
        ("modules.softdep", b"options a b=c\n", "softdep MODULE"),
        ("modules.weakdep", b"softdep a pre: b\n", "weakdep MODULE"),
        ("modules.builtin", b"kernel/a.txt\n", ".ko file"),
        ("modules.builtin", b"kernel/a.ko", "newline"),
        ("modules.builtin.modinfo", b"a.alias=b", "NUL byte behind"),
        ("modules.builtin.modinfo", b"alias\0", "NAME.KEY=VALUE"),
        ("modules.alias", b"alias a b\nfoo bar baz\n", "alias PATTERN MODULE"),
    ],
)
def test_other_damaged_files(tmp_path: Path, file: str, content: bytes, expected: str) -> None:
    (tmp_path / "modules.dep").write_text("")
    (tmp_path / file).write_bytes(content)
    tree = ModuleTree(tmp_path)
    with pytest.raises(BadInput) as error:
        print(tree.softdeps, tree.weakdeps, tree.builtin, tree.builtin_aliases, tree.aliases)
    assert error.value.evidence.where[0].startswith(f"{tmp_path / file}:")
    assert expected in error.value.evidence.expected


def test_metadata_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "modules.softdep").mkdir()
    with pytest.raises(BadInput, match=r"cannot read modules\.softdep"):
        print(ModuleTree(tmp_path).softdeps)


@pytest.mark.parametrize("below", ["lib/modules", "usr/lib/modules"])
def test_case35_a_root_is_no_module_tree(tmp_path: Path, below: str) -> None:
    tree = tmp_path / below / RELEASE
    tree.mkdir(parents=True)
    (tree / "modules.dep").write_text("")
    for wrong in (tmp_path, tree.parent):
        with pytest.raises(BadInput, match="not a module tree") as error:
            len(ModuleTree(wrong).modules)
        assert error.value.evidence.where == (str(wrong / "modules.dep"),)
        assert str(tree) in error.value.evidence.next_step


def test_no_modules_dep(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a module tree") as error:
        len(ModuleTree(tmp_path).modules)
    assert "depmod -b ROOT" in error.value.evidence.next_step


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    module = make_tree(tmp_path, {"a": []}).modules["a"]
    module.path.unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        print(module.size_bytes)
