"""Whole trees, Debian's and our own, against kmod: every module, thousands of aliases, in order."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.ko_files import tree_of_files
from pytest_kernelvm.modules.modprobe import KMOD_VERSIONS, simulate_modprobe
from pytest_kernelvm.modules.names import normalise
from pytest_kernelvm.modules.pruned_tree import write_pruned_tree
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import run
from pytest_kernelvm.store.store import default_store
from tests.unit.debian_packages import module_root, newer_modprobe, unreachable_is_skipped

ALIASES = 5000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("depmod") and shutil.which("modprobe")), reason="kmod is not installed"
    ),
]


def built_trees() -> list[Path]:
    """Return the trees of the kernels in the store."""
    found = default_store().glob("kernels/*/modules/lib/modules/*/modules.dep")
    return sorted(path.parent for path in found)


@pytest.fixture(scope="module", params=["arm64-6.12", "mipsel-6.1", "built"])
def trees(request: pytest.FixtureRequest) -> list[Path]:
    """Trees of one origin."""
    if request.param == "built":
        if not (found := built_trees()):
            pytest.skip("no kernel is built yet")
        return found
    suite, arch, package = {
        "arm64-6.12": ("bookworm-backports", "arm64", "linux-image-arm64"),
        "mipsel-6.1": ("bookworm", "mipsel", "linux-image-4kc-malta"),
    }[request.param]
    root = unreachable_is_skipped(module_root(suite, arch, package))
    return list((root / "lib" / "modules").iterdir())


@pytest.fixture(scope="module", params=["host's", "newer"])
def modprobe(request: pytest.FixtureRequest) -> Path:
    """A modprobe of a kmod that we know."""
    if request.param == "newer":
        return unreachable_is_skipped(newer_modprobe())
    return Path(shutil.which("modprobe") or "")


def version_of(modprobe: Path) -> int:
    found = re.search(r"version (\d+)", run([modprobe, "--version"], timeout_s=30).stdout)
    assert found is not None
    if int(found[1]) not in KMOD_VERSIONS:
        pytest.skip(f"kmod {found[1]} is not one that we know")
    return int(found[1])


def shown(modprobe: Path, directory: Path, names: Sequence[str], nothing: Path) -> str:
    """Return what modprobe shows for names, as many at once as a command line holds."""
    root = directory.parents[2]
    argv: list[str | Path] = [modprobe, "-a", "--show-depends", "-d", root]
    argv += ["-S", directory.name, "-C", nothing]
    outputs = []
    for at in range(0, len(names), 2000):
        done = run([*argv, *names[at : at + 2000]], timeout_s=60, check=False)
        outputs.append(done.stdout)
    return "".join(outputs)


def concrete(pattern: str, chosen: random.Random) -> str:
    """Return a name that a pattern of modules.alias means."""
    text = re.sub(r"\[([^\]])[^\]]*\]", r"\1", pattern)
    return re.sub(r"[*?]", lambda wild: chosen.choice("0aZ") if wild[0] == "?" else "0", text)


def asked_of(tree: ModuleTree) -> Iterator[str]:
    """Yield every module, some thousand aliases, symbols, and all builtin names and aliases."""
    chosen = random.Random(1)
    yield from tree.modules
    aliases = [pattern for pattern, _ in tree.aliases.lines()]
    for pattern in chosen.sample(aliases, min(ALIASES, len(aliases))):
        yield concrete(pattern, chosen)
    symbols = [pattern for pattern, _ in tree.symbols.lines()]
    yield from chosen.sample(symbols, min(500, len(symbols)))
    yield from tree.builtin
    for _, alias in tree.builtin_values("alias"):
        yield concrete(alias, chosen)


def test_modprobe_is_matched_word_for_word(
    trees: list[Path], modprobe: Path, tmp_path: Path
) -> None:
    kmod = version_of(modprobe)
    for directory in trees:
        tree = ModuleTree(directory)
        names = list(asked_of(tree))
        ours = "".join(simulate_modprobe(tree, name, kmod=kmod).output for name in names)
        assert ours == shown(modprobe, directory, names, tmp_path), directory.name


def test_files_alone_give_the_same_dependencies(trees: list[Path]) -> None:
    for directory in trees:
        tree, second = ModuleTree(directory), tree_of_files(directory)
        assert list(second.modules) == list(tree.modules)
        for name in tree.modules:
            assert set(second.modules.needs(name)) == set(tree.modules.needs(name)), name
        for index in ("aliases", "softdeps"):
            ours, theirs = getattr(second, index), getattr(tree, index)
            if index == "aliases":
                ours, theirs = list(ours.lines()), list(theirs.lines())
            assert ours == theirs


def test_closures_hold_all_that_modprobe_loads(trees: list[Path]) -> None:
    for directory in trees:
        tree = ModuleTree(directory)
        for name in tree.modules:
            closure = resolve_closure(tree, [name])
            order = closure.load_order
            assert set(simulate_modprobe(tree, name).load_order) <= set(order)
            place = {module: at for at, module in enumerate(order)}
            for module in order:
                assert all(place[need] < place[module] for need in tree.modules.needs(module))


def test_modprobe_shows_the_same_on_a_pruned_tree(trees: list[Path], tmp_path: Path) -> None:
    """For each of their modules and all of its aliases, and in an order after depmod too."""
    modprobe = Path(shutil.which("modprobe") or "")
    chosen = random.Random(1)
    for number, directory in enumerate(trees):
        tree = ModuleTree(directory)
        modules, builtin = list(tree.modules), list(tree.builtin)
        closure = resolve_closure(tree, chosen.sample(modules, min(12, len(modules))))
        root = tmp_path / str(number)
        pruned = write_pruned_tree(tree, closure, root)
        kept = {module.name for module in closure.modules}
        asked = {tree.aliases: chosen.sample(builtin, min(20, len(builtin))), tree.symbols: []}
        names = [*kept]
        for index, further in asked.items():
            patterns = [pattern for pattern, module in index.lines() if module in kept]
            wanted = [*further, *(concrete(pattern, chosen) for pattern in patterns)]
            # A name that others have too is answered with those that are there.
            names += [name for name in wanted if set(index.lookup(normalise(name))) <= kept]
        whole = shown(modprobe, directory, names, tmp_path)
        expected = whole.replace(str(directory), str(pruned))
        assert shown(modprobe, pruned, names, tmp_path) == expected
        run(["depmod", "-b", root, directory.name], timeout_s=60)
        # How depmod orders modules that do not need each other depends on all that it sees.
        again = shown(modprobe, pruned, names, tmp_path)
        assert sorted(again.splitlines()) == sorted(expected.splitlines())
        for name in kept:
            order = simulate_modprobe(ModuleTree(pruned), name).load_order
            place = {module: at for at, module in enumerate(order)}
            for module in order:
                assert all(place[need] < place[module] for need in tree.modules.needs(module))
