"""Closures as text, and the metadata of a tree that holds just a closure."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from textwrap import dedent

import pytest

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.pruned import pruned_metadata
from pytest_kernelvm.modules.rendering import Form, load_script, render, unload_script
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import run
from tests.unit.test_modules_tree import RELEASE, make_tree, write_lines


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    return make_tree(
        tmp_path,
        {
            "nft-ct": ["nf-conntrack", "nf_tables", "libcrc32c"],
            "unrelated": ["nf_tables"],
            "nf_tables": ["libcrc32c"],
            "nf-conntrack": ["libcrc32c"],
            "libcrc32c": [],
            "crc32c": [],
            "late": [],
            "asked": [],
        },
        alias=["crypto-crc32c crc32c", "nft-expr-ct nft-ct", "x unrelated", "late crc32c"],
        softdep=["libcrc32c pre: crypto-crc32c nowhere", "nft-ct post: late", "unrelated pre: x"],
        weakdep=["nf_tables asked"],
        builtin=["zlib", "fuse"],
    )


@pytest.fixture
def closure(tree: ModuleTree) -> Closure:
    return resolve_closure(
        tree, ["nft-ct", "crypto-crc32c", "zlib", "absent"], allow_missing=["absent"]
    )


def test_tree_for_people(closure: Closure) -> None:
    assert render(closure, "tree") == dedent(
        f"""\
        nft_ct  13 B
          nf_tables  16 B
            libcrc32c  16 B
              crc32c  13 B  (softdep pre, as crypto-crc32c)
            asked  12 B  (weakdep, on request)
          nf_conntrack  19 B
            libcrc32c  (above)
          late  11 B  (softdep post)
        crypto_crc32c  (alias)
          crc32c  (above)
        builtin: zlib
        missing: absent
        warning: libcrc32c: softdep pre nowhere is neither a module, nor an alias of one, \
nor builtin in {RELEASE}
        7 modules, 100 B
        """
    )


def test_the_tree_shows_needs_of_builtin_modules_and_orphans(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path,
        {"a": ["b"], "b": [], "c": [], "d": []},
        softdep=["b pre: c"],
        builtin=["ext4"],
        modinfo=["ext4.softdep=pre: d"],
    )
    text = render(resolve_closure(tree, ["a", "ext4"]).without("b"), "tree")
    assert text.splitlines()[:4] == [
        "a  8 B",
        "ext4  (builtin)",
        "  d  8 B  (softdep pre, on request)",
        "c  8 B",
    ]


def test_sizes_in_the_tree(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"a": ["b"], "b": []})
    for name, size_bytes in (("a", 1536), ("b", 3 * 1024 * 1024)):
        (tree.directory / f"kernel/{name}.ko").write_bytes(bytes(size_bytes))
    assert (
        render(resolve_closure(tree, ["a"]), "tree")
        == "a  1.5 KiB\n  b  3.0 MiB\n2 modules, 3.0 MiB\n"
    )


def test_deep_trees_stay_narrow(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(60)]
    needs = {name: names[number + 1 : number + 2] for number, name in enumerate(names)}
    text = render(resolve_closure(make_tree(tmp_path, needs), ["m0"]), "tree")
    assert f"{' ' * 60}m30  " in text
    assert f"{' ' * 60}[59] m59  " in text


def test_list(closure: Closure) -> None:
    names = ["crc32c", "libcrc32c", "nf_tables", "nf_conntrack", "nft_ct", "late"]
    assert render(closure, "list").split("\n") == [*names, ""]


def test_json(closure: Closure) -> None:
    content = json.loads(render(closure, "json"))
    assert content["load_order"] == list(closure.load_order)
    assert content["unload_order"] == list(closure.unload_order)
    assert (content["release"], content["size_bytes"]) == (RELEASE, 100)
    assert content["wanted"] == ["nft_ct", "crypto_crc32c", "zlib", "absent"]
    assert (content["builtin"], content["missing"]) == (["zlib"], ["absent"])
    modules = {module.pop("name"): module for module in content["modules"]}
    assert modules["nft_ct"] == {
        "path": "kernel/nft-ct.ko",
        "size_bytes": 13,
        "relation": "wanted",
        "requirer": None,
        "alias": None,
        "on_request": False,
    }
    assert modules["crc32c"]["relation"] == "softdep pre"
    assert modules["crc32c"]["requirer"] == "libcrc32c"
    assert modules["crc32c"]["alias"] == "crypto-crc32c"
    assert modules["asked"]["on_request"] is True


def test_dot(closure: Closure) -> None:
    lines = [line.strip() for line in render(closure, "dot").splitlines()]
    assert lines[0] == "digraph modules {"
    assert lines[-1] == "}"
    assert '"nft_ct" -> "nf_tables";' in lines
    assert '"nft_ct" -> "libcrc32c";' not in lines
    assert '"libcrc32c" -> "crc32c" [style=dashed, label="softdep pre"];' in lines
    assert '"crypto_crc32c" -> "crc32c" [style=dashed, label="alias"];' in lines


def test_scripts_load_and_unload_in_order(tmp_path: Path, closure: Closure) -> None:
    """Run the scripts with commands that only say what they were asked to do."""
    for name in ("insmod", "rmmod"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    place = PurePath("/lib/it's here; rm -rf/modules")
    said = {}
    for script in (load_script(closure, place), unload_script(closure)):
        file = tmp_path / "script.sh"
        file.write_text(script)
        done = run(["sh", file], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout_s=10)
        said[script] = done.stdout.splitlines()
    loads, unloads = said.values()
    assert loads[0] == f"insmod {place}/kernel/crc32c.ko"
    assert [Path(line).stem.replace("-", "_") for line in loads] == list(closure.load_order)
    assert unloads == [f"rmmod {name}" for name in closure.unload_order]
    assert render(closure, "sh") == load_script(closure, closure.directory)


def test_a_script_stops_at_the_first_failure(tmp_path: Path, closure: Closure) -> None:
    (tmp_path / "insmod").write_text('#!/bin/sh\necho "$@"; exit 1\n')
    (tmp_path / "insmod").chmod(0o755)
    (tmp_path / "load.sh").write_text(load_script(closure))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = run(["sh", tmp_path / "load.sh"], env=environment, timeout_s=10, check=False)
    assert (done.status, len(done.stdout.splitlines())) == (1, 1)


@pytest.mark.parametrize("form", ["tree", "list", "json", "dot", "sh"])
def test_an_empty_closure_in_every_form(tmp_path: Path, form: Form) -> None:
    text = render(resolve_closure(ModuleTree(tmp_path), ()), form)
    assert text == "" or text.endswith("\n")


def test_pruned_metadata(tree: ModuleTree, closure: Closure) -> None:
    files = {name: content.decode() for name, content in pruned_metadata(tree, closure).items()}
    assert files["modules.dep"] == dedent(
        """\
        kernel/nft-ct.ko: kernel/nf-conntrack.ko kernel/nf_tables.ko kernel/libcrc32c.ko
        kernel/nf_tables.ko: kernel/libcrc32c.ko
        kernel/nf-conntrack.ko: kernel/libcrc32c.ko
        kernel/libcrc32c.ko:
        kernel/crc32c.ko:
        kernel/late.ko:
        kernel/asked.ko:
        """
    )
    assert files["modules.alias"].splitlines() == [
        "alias crypto-crc32c crc32c",
        "alias nft-expr-ct nft-ct",
        "alias late crc32c",
    ]
    assert files["modules.softdep"].splitlines() == [
        "softdep libcrc32c pre: crypto-crc32c nowhere",
        "softdep nft-ct post: late",
    ]
    assert files["modules.builtin"] == "kernel/zlib.ko\nkernel/fuse.ko\n"
    assert set(files) == {
        "modules.dep",
        "modules.alias",
        "modules.symbols",
        "modules.softdep",
        "modules.builtin",
        "modules.builtin.modinfo",
    }


def test_closures_of_a_pruned_tree_are_those_of_the_full_one(
    tmp_path: Path, tree: ModuleTree
) -> None:
    closure = resolve_closure(tree, ["nft-ct"])
    directory = tmp_path / "small" / RELEASE
    for module in closure.modules:
        (directory / module.file.relative).parent.mkdir(parents=True, exist_ok=True)
        (directory / module.file.relative).touch()
    for name, content in pruned_metadata(tree, closure).items():
        (directory / name).write_bytes(content)
    small = resolve_closure(ModuleTree(directory), ["nft-ct"])
    assert small.load_order == closure.load_order
    assert small.warnings == closure.warnings


def test_pruned_metadata_without_a_module(tree: ModuleTree) -> None:
    files = pruned_metadata(tree, resolve_closure(tree, ["nft-ct"]).without("libcrc32c"))
    assert b"libcrc32c" not in files["modules.dep"] + files["modules.softdep"]
    assert b"kernel/nf_tables.ko:\n" in files["modules.dep"]


def test_case36_what_depmod_needs(tree: ModuleTree) -> None:
    write_lines(tree.directory / "modules.order", ["kernel/late.ko", "kernel/other.ko"])
    (tree.directory / "modules.builtin.modinfo").write_bytes(b"fuse.alias=x\0")
    files = pruned_metadata(tree, resolve_closure(tree, ["late"]), for_depmod=True)
    assert files["modules.order"] == b"kernel/late.ko\n"
    assert files["modules.builtin.modinfo"] == b"fuse.alias=x\0"


def test_case26_pruned_metadata_of_nothing(tmp_path: Path) -> None:
    tree = ModuleTree(tmp_path)
    assert set(pruned_metadata(tree, resolve_closure(tree, ())).values()) == {b""}


def test_a_closure_of_another_tree(tmp_path: Path, tree: ModuleTree, closure: Closure) -> None:
    with pytest.raises(BadInput, match="another module tree") as error:
        pruned_metadata(ModuleTree(tmp_path), closure)
    assert error.value.evidence.seen == str(tree.directory)
