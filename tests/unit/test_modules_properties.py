"""What holds for every graph of modules: plans that load and unload, and modprobe's answers."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings

from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.fast_path import LazyModules
from pytest_kernelvm.modules.modprobe import simulate_modprobe
from pytest_kernelvm.modules.tree import ModuleTree
from tests.unit.test_modules_closure import Graph, graphs, root, tree_of

__all__ = ["root"]

LONG = 100_000


class Kernel:
    """A kernel that refuses what a real one would: a module before its needs, or under its users.

    needs: what each module needs directly or not.
    """

    def __init__(self, needs: dict[str, list[str]]) -> None:
        self._needs = needs
        self.loaded: list[str] = []

    def insert(self, name: str) -> None:
        assert name not in self.loaded
        assert set(self._needs[name]) <= set(self.loaded)
        self.loaded.append(name)

    def remove(self, name: str) -> None:
        assert not any(name in self._needs[other] for other in self.loaded)
        self.loaded.remove(name)


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_every_plan_loads_and_its_reverse_unloads(root: Path, graph: Graph) -> None:
    plan = resolve_closure(tree_of(root, graph), graph.wanted).plan
    kernel = Kernel(graph.hard)
    for step in plan.load:
        kernel.insert(step.name)
    assert set(kernel.loaded) == graph.reachable(graph.hard, graph.pre, graph.post)
    for name in plan.unload:
        kernel.remove(name)
    assert kernel.loaded == []


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_a_plan_is_minimal(root: Path, graph: Graph) -> None:
    """Without any one module of it, something of the requirement would lack."""
    closure = resolve_closure(tree_of(root, graph), graph.wanted)
    for module in closure.modules:
        assert module.reason[0] in graph.wanted
        assert module.reason[-1] == module.name


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_modprobe_loads_no_more_than_the_closure_and_never_before_its_needs(
    root: Path, graph: Graph
) -> None:
    # modprobe trusts modules.dep to be transitive and in order, as depmod writes it.
    whole = {
        name: sorted(
            Graph(hard=graph.hard, pre={}, post={}, weak={}, wanted=[name]).reachable(graph.hard)
            - {name},
            key=lambda need: -int(need[1:]),
        )
        for name in graph.hard
    }
    tree = tree_of(
        root,
        Graph(
            hard=whole,
            pre=graph.pre,
            post=graph.post,
            weak=graph.weak,
            wanted=graph.wanted,
        ),
    )
    for name in graph.wanted:
        found = simulate_modprobe(tree, name)
        assert found.found
        assert set(found.load_order) <= set(resolve_closure(tree, [name]).load_order)
        kernel = Kernel(graph.hard)
        for each in found.load_order:
            kernel.insert(each)
        assert name in kernel.loaded
        for action in found.actions:
            assert action.module.reason[0] == name


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_the_fast_path_gives_what_the_walk_gives(root: Path, graph: Graph) -> None:
    """A closure that is one line of modules.dep is what the walk finds beside another module."""
    tree = tree_of(root, Graph(hard=graph.hard, pre={}, post={}, weak={}, wanted=graph.wanted))
    for name in graph.hard:
        fast = resolve_closure(tree, [name])
        if isinstance(fast.modules, LazyModules):
            # allow_missing of a second name makes the walk take over.
            walked = resolve_closure(tree, [name, "nowhere"], allow_missing=["nowhere"])
            assert fast.load_order == walked.load_order
            assert tuple(fast.modules) == tuple(walked.modules)
            assert [m.reason for m in fast.modules] == [m.reason for m in walked.modules]


def long_chain(directory: Path, *, softly: bool) -> ModuleTree:
    """Write a chain of 100,000 modules."""
    names = [f"m{number}" for number in range(LONG)]
    needs = [f" k/{name}.ko" for name in names[1:]] + [""]
    lines = [f"k/{n}.ko:{'' if softly else need}\n" for n, need in zip(names, needs, strict=True)]
    (directory / "modules.dep").write_text("".join(lines))
    soft = [f"softdep {name} pre: {after}\n" for name, after in pairwise(names)]
    (directory / "modules.softdep").write_text("".join(soft if softly else []))
    return ModuleTree(directory)


@pytest.mark.slow
def test_a_chain_of_100000_modules(root: Path) -> None:
    names = [f"m{number}" for number in range(LONG)]
    directory = root / "long"
    (directory / "k").mkdir(parents=True)
    for name in names:
        os.mknod(directory / "k" / f"{name}.ko")
    closure = resolve_closure(long_chain(directory, softly=False), ["m0"])
    assert closure.load_order == tuple(reversed(names))
    assert closure.plan.unload == tuple(names)
    assert len(closure.modules[0].reason) == 2 * LONG - 1
    tree = long_chain(directory, softly=True)
    assert resolve_closure(tree, ["m0"]).load_order == tuple(reversed(names))
    assert simulate_modprobe(tree, "m0").load_order == tuple(reversed(names))
