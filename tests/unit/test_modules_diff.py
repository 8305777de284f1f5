"""What became of modules from one tree to another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_kernelvm.cli.main import main
from pytest_kernelvm.modules.diff import ModuleChange, TreeDiff, diff_trees
from pytest_kernelvm.modules.diff_rendering import diff_json, diff_text
from pytest_kernelvm.modules.tree import ModuleTree
from tests.unit.test_modules_depmod import Source, install

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="kmod is not installed")

NONE = Source()


@pytest.fixture
def before(tmp_path: Path) -> ModuleTree:
    return install(
        tmp_path / "before",
        {
            "stays": Source(needs=("skcipher",), aliases=("x",), firmware=("old.bin",)),
            "skcipher": NONE,
            "gone": Source(aliases=("of:gone",)),
            "absorbed": NONE,
            "xhci-pci": Source(aliases=("pci:1", "pci:2", "pci:3")),
            "usb": Source(aliases=("usb:1", "usb:2")),
        },
        builtin=["freed"],
    )


@pytest.fixture
def after(tmp_path: Path) -> ModuleTree:
    root = tmp_path / "after"
    tree = install(
        root,
        {
            "stays": Source(needs=("crypto_skcipher",), aliases=("x", "y"), firmware=("new.bin",)),
            "crypto_skcipher": Source(aliases=("kept",)),
            "fresh": Source(aliases=("of:fresh",)),
            "freed": NONE,
            "xhci-pci": Source(aliases=("pci:1", "pci:2")),
            "xhci-renesas": Source(aliases=("pci:3",)),
            "usb-a": Source(aliases=("usb:1",)),
            "usb-b": Source(aliases=("usb:2",)),
        },
        builtin=["absorbed"],
    )
    # What depmod would have found in a module that exports its predecessor's symbol.
    symbols = tree.directory / "modules.symbols"
    symbols.write_text(
        symbols.read_text().replace("symbol_of_crypto_skcipher", "symbol_of_skcipher")
    )
    return ModuleTree(tree.directory)


@pytest.fixture
def diff(before: ModuleTree, after: ModuleTree) -> TreeDiff:
    return diff_trees(before, after, closures=["stays", "gone"], with_firmware=True)


def test_added_removed_renamed_and_split_modules(diff: TreeDiff) -> None:
    assert diff.added == ("fresh",)
    assert diff.removed == ("gone",)
    assert diff.renamed == (ModuleChange(name="skcipher", now=("crypto_skcipher",)),)
    assert diff.split == (
        ModuleChange(name="usb", now=("usb_a", "usb_b")),
        ModuleChange(name="xhci_pci", now=("xhci_pci", "xhci_renesas")),
    )
    assert diff.turned_builtin == ("absorbed",)
    assert diff.turned_loadable == ("freed",)


def test_what_changed_in_modules_that_stayed(diff: TreeDiff, after: ModuleTree) -> None:
    assert diff.aliases == (
        ModuleChange(name="stays", now=("y",)),
        ModuleChange(name="xhci_pci", was=("pci:3",)),
    )
    assert diff.firmware == (ModuleChange(name="stays", was=("old.bin",), now=("new.bin",)),)
    assert diff.dependencies == (
        ModuleChange(name="stays", was=("skcipher",), now=("crypto_skcipher",)),
    )
    grown = {each.name: each for each in diff.resized}
    assert set(grown) == {"stays", "xhci_pci"}
    assert grown["stays"].now_bytes == after.modules["stays"].size_bytes
    assert diff.resized[0].name == "stays"


def test_closures(diff: TreeDiff) -> None:
    stays, gone = diff.closures
    assert stays.change == ModuleChange(name="stays", was=("skcipher",), now=("crypto_skcipher",))
    assert stays.was_bytes < stays.now_bytes
    assert "no module 'gone'" in gone.error


def test_a_tree_does_not_differ_from_itself(before: ModuleTree) -> None:
    diff = diff_trees(before, ModuleTree(before.directory), closures=["stays"])
    assert diff_text(diff).splitlines()[:2] == [
        f"{before.release} → {before.release}",
        "closures: 1",
    ]
    assert diff_trees(before, before) == TreeDiff(before=before.release, after=before.release)
    assert diff_text(diff_trees(before, before)).splitlines()[1] == "no difference"


def test_as_text(diff: TreeDiff) -> None:
    lines = diff_text(diff).splitlines()
    for line in (
        "added: 1",
        "  fresh",
        "  skcipher → crypto_skcipher",
        "  usb → usb_a, usb_b",
        "  stays -old.bin +new.bin",
    ):
        assert line in lines
    assert any(line.startswith("  stays +") and " B (" in line for line in lines)
    assert "  … and 1 more" in diff_text(diff, 1).splitlines()


def test_as_json(diff: TreeDiff) -> None:
    found = json.loads(diff_json(diff))
    assert found["renamed"] == [{"name": "skcipher", "was": [], "now": ["crypto_skcipher"]}]
    assert found["closures"][1]["error"]


def test_the_verb(
    before: ModuleTree, after: ModuleTree, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["modules", "diff", str(before.directory), str(after.directory)]
    assert main([*argv, "--format", "json", "--firmware", "--closure", "stays"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == ["fresh"]
    assert main(argv) == 0
    assert "turned builtin: 1\n  absorbed\n" in capsys.readouterr().out
