"""Closures: the edge cases one by one, and what holds for every graph."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.rendering import Form, render
from pytest_kernelvm.modules.tree import ModuleTree
from tests.unit.test_modules_tree import RELEASE, make_tree

Modules = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A tree, what is wanted of it, and what comes out."""

    modules: Modules
    files: Mapping[str, Any] = field(default_factory=dict)
    wanted: tuple[str, ...] = ("a",)
    allow_missing: tuple[str, ...] = ()
    allow_empty: bool = False
    loads: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


CASES = {
    "case01-kmod#33-several-softdep-lines": Case(
        modules={"a": [], "b": [], "c": []},
        files={"softdep": ["a pre: b", "a pre: c"]},
        loads=("b", "c", "a"),
    ),
    "case02-softdep-without-pre-or-post": Case(
        modules={"a": [], "gcm": []},
        files={"softdep": ["a gcm"]},
        loads=("a",),
        warnings=("a: softdep gcm stands behind neither",),
    ),
    "case04-softdep-by-alias": Case(
        modules={"a": [], "crc32c_generic": []},
        files={"softdep": ["a pre: crypto-crc32c"], "alias": ["crypto-crc32c crc32c_generic"]},
        loads=("crc32c_generic", "a"),
    ),
    "case05-softdep-of-a-builtin": Case(
        modules={"a": []},
        files={"softdep": ["a pre: ecb"], "builtin": ["ecb"]},
        loads=("a",),
        builtin=("ecb",),
    ),
    "case05-softdep-of-a-builtin-alias": Case(
        modules={"a": []},
        files={
            "softdep": ["a pre: crypto-ecb"],
            "builtin": ["ecb"],
            "modinfo": ["ecb.alias=crypto-ecb"],
        },
        loads=("a",),
        builtin=("ecb",),
    ),
    "case06-mkosi#4185-softdep-of-nothing": Case(
        modules={"a": []},
        files={"softdep": ["a pre: nowhere"]},
        loads=("a",),
        warnings=("a: softdep pre nowhere is neither a module",),
    ),
    "case06-softdep-that-may-be-missing": Case(
        modules={"a": []},
        files={"softdep": ["a pre: no-where"]},
        allow_missing=("no_where",),
        loads=("a",),
        missing=("no_where",),
    ),
    "case07-dracutdevs#491-dependencies-of-softdeps": Case(
        modules={"a": [], "b": ["c"], "c": [], "d": []},
        files={"softdep": ["a pre: b", "c pre: d"]},
        loads=("d", "c", "b", "a"),
    ),
    "case08-softdep-behind": Case(
        modules={"a": ["b"], "b": [], "c": [], "d": []},
        files={"softdep": ["a post: c", "b post: d"]},
        loads=("b", "d", "a", "c"),
    ),
    "case09-softdeps-in-a-loop": Case(
        modules={"a": [], "b": []},
        files={"softdep": ["a pre: b", "b pre: a"]},
        loads=("b", "a"),
    ),
    "case09-softdep-of-a-dependent": Case(
        modules={"a": [], "b": ["a"]},
        files={"softdep": ["a pre: b"]},
        loads=("a", "b"),
    ),
    "case09-softdep-of-itself": Case(
        modules={"a": []}, files={"softdep": ["a pre: a post: a"]}, loads=("a",)
    ),
    "case11-weakdep": Case(
        modules={"a": [], "b": ["c"], "c": []},
        files={"weakdep": ["a b"]},
        loads=("a",),
        on_request=("c", "b"),
    ),
    "case11-weakdeps-in-a-loop": Case(
        modules={"a": [], "b": [], "c": []},
        files={"weakdep": ["a b", "b c", "c a"]},
        loads=("a",),
        on_request=("b", "c"),
    ),
    "case11-weakdep-that-is-wanted-too": Case(
        modules={"a": [], "b": []},
        files={"weakdep": ["a b"]},
        wanted=("a", "b"),
        loads=("a", "b"),
    ),
    "case11-weakdep-of-nothing": Case(
        modules={"a": []},
        files={"weakdep": ["a b"]},
        loads=("a",),
        warnings=("a: weakdep b is neither",),
    ),
    "case12-rapido#266-softdep-of-a-builtin-module": Case(
        modules={"crc32c_generic": []},
        files={
            "builtin": ["ext4"],
            "modinfo": ["ext4.softdep=pre: crypto-crc32c"],
            "alias": ["crypto-crc32c crc32c_generic"],
        },
        wanted=("ext4",),
        on_request=("crc32c_generic",),
        builtin=("ext4",),
    ),
    "case11-weakdep-of-a-builtin-module": Case(
        modules={"b": []},
        files={"builtin": ["a"], "modinfo": ["a.weakdep=b"]},
        on_request=("b",),
        builtin=("a",),
    ),
    "case13-dashes": Case(
        modules={"nft-ct": ["nf-conntrack"], "nf-conntrack": []},
        wanted=("nft-ct", "nft_ct"),
        loads=("nf_conntrack", "nft_ct"),
    ),
    "case14-module-before-alias": Case(
        modules={"cmac": [], "other": []},
        files={"alias": ["cmac other"]},
        wanted=("cmac",),
        loads=("cmac",),
    ),
    "case15-wildcard-alias": Case(
        modules={"uas": []},
        files={"alias": ["usb:v152Dp0567d011[4-7]dc* uas"]},
        wanted=("usb:v152Dp0567d0115dc00",),
        loads=("uas",),
    ),
    "case16-alias-with-blanks": Case(
        modules={"mt8188_mt6359": []},
        files={"alias": ["mt8188 mt6359 soc card mt8188_mt6359"]},
        wanted=("mt8188 mt6359 soc card",),
        loads=("mt8188_mt6359",),
    ),
    "case17-alias-of-several": Case(
        modules={"z": [], "y": ["x"], "x": []},
        files={"alias": ["sha256 z", "sha256 y", "sha256 elsewhere"]},
        wanted=("sha256",),
        loads=("z", "x", "y"),
    ),
    "case21-absent-file-that-may-be-missing": Case(
        modules={"a": ["b", "c"], "b": ["c"], "c": []},
        files={"absent": ["b"]},
        allow_missing=("b",),
        loads=("c", "a"),
        missing=("b",),
    ),
    "case22-what-an-allowed-absent-module-needs-stays-out": Case(
        modules={"a": ["b"], "b": [], "c": [], "d": []},
        files={"absent": ["a"], "softdep": ["a pre: c", "d pre: a"]},
        wanted=("a", "d"),
        allow_missing=("a",),
        loads=("d",),
        missing=("a",),
    ),
    "case23-nixpkgs#92081-builtin-as-first-dependency": Case(
        modules={"a": ["b", "c"], "c": []},
        files={"builtin": ["b"]},
        loads=("c", "a"),
        builtin=("b",),
    ),
    "case23-builtin-beside-a-module": Case(
        modules={"a": []},
        files={"builtin": ["b"]},
        wanted=("b", "a"),
        loads=("a",),
        builtin=("b",),
    ),
    "case25-duplicate-builtin": Case(
        modules={"a": []},
        files={"builtin": ["b", "b"]},
        wanted=("b", "b", "a"),
        loads=("a",),
        builtin=("b",),
    ),
    "case26-all-builtin": Case(
        modules={}, files={"builtin": ["a"]}, allow_empty=True, builtin=("a",)
    ),
    "case26-nixpkgs#423933-all-missing": Case(
        modules={}, allow_missing=("a",), allow_empty=True, missing=("a",)
    ),
    "case40-list-that-is-not-transitive": Case(
        modules={"a": ["b"], "b": ["c"], "c": ["d"], "d": []}, loads=("d", "c", "b", "a")
    ),
    "case40-list-in-the-wrong-order": Case(
        modules={"a": ["d", "b", "c"], "b": ["c", "d"], "c": ["d"], "d": []},
        loads=("d", "c", "b", "a"),
    ),
    "allowed-but-there": Case(modules={"a": []}, allow_missing=("a", "b"), loads=("a",)),
    "modules-share-dependencies": Case(
        modules={"a": ["c"], "b": ["c"], "c": []}, wanted=("a", "b"), loads=("c", "a", "b")
    ),
}


def closed(tree: ModuleTree, case: Case) -> Closure:
    return resolve_closure(
        tree, case.wanted, allow_missing=case.allow_missing, allow_empty=case.allow_empty
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_cases(tmp_path: Path, case: Case) -> None:
    closure = closed(make_tree(tmp_path, case.modules, **case.files), case)
    assert closure.load_order == case.loads
    assert closure.unload_order == case.loads[::-1]
    assert tuple(m.name for m in closure.modules if m.on_request) == case.on_request
    assert tuple(m.name for m in closure.modules) == (*case.loads, *case.on_request)
    assert closure.builtin == case.builtin
    assert closure.missing == case.missing
    assert len(closure.warnings) == len(case.warnings)
    for warning, text in zip(closure.warnings, case.warnings, strict=True):
        assert warning.startswith(text)


ERRORS = {
    "case10-cycle-of-1": (Case(modules={"a": ["a"]}), ["a → a", "modules.dep:1"]),
    "case10-cycle-of-2": (Case(modules={"a": ["b"], "b": ["a"]}), ["a → b → a", "modules.dep:2"]),
    "case10-cycle-of-4": (
        Case(modules={"a": ["b"], "b": ["c"], "c": ["d"], "d": ["e"], "e": ["b"]}),
        ["b → c → d → e → b", "a cycle of 4"],
    ),
    "case19-alias-off": (
        Case(modules={"a": []}, files={"alias": ["x off"]}, wanted=("x",)),
        ["alias 'x'", "switched off", "modules.alias"],
    ),
    "case19-alias-of-nothing": (
        Case(modules={}, files={"alias": ["x gone"]}, wanted=("x",)),
        ["alias 'x'", "stands for gone"],
    ),
    "case20-upper-case": (
        Case(modules={"nft_ct": []}, wanted=("NFT_CT",)),
        ["no module 'NFT_CT'", "did you mean nft_ct?"],
    ),
    "case20-file": (Case(modules={"a": []}, wanted=("a.ko",)), ["is a file", "write 'a'"]),
    "case21-dependency-without-a-file": (
        Case(modules={"a": ["b"], "b": []}, files={"absent": ["b"]}),
        ["file of module b is absent", "kernel/b.ko", "a depends b", "modules.dep:2"],
    ),
    "case21-dependency-without-a-line": (
        Case(modules={"a": ["b"]}),
        ["a depends on b, which modules.dep does not list", "modules.dep:1"],
    ),
    "case22-module-without-a-file": (
        Case(modules={"a": []}, files={"absent": ["a"]}),
        ["file of module a is absent", "kernel/a.ko", "modules.dep:1"],
    ),
    "case22-softdep-without-a-file": (
        Case(modules={"a": [], "b": []}, files={"softdep": ["a pre: b"], "absent": ["b"]}),
        ["file of module b is absent", "a softdep pre b"],
    ),
    "case24-missing": (
        Case(modules={"nft_ct": []}, wanted=("nft_cz",)),
        ["no module 'nft_cz' in 6.12.0-test\n", "nor built into the kernel", "nft_ct?"],
    ),
    "case24-missing-without-modules.builtin": (
        Case(modules={}, files={"builtin": None}),
        ["unless the kernel has it built in", "without modules.builtin nobody knows"],
    ),
    "case26-all-builtin": (
        Case(modules={}, files={"builtin": ["a"]}),
        ["the closure is empty", "builtin: a", "allow_empty=True"],
    ),
    "case26-nixpkgs#423933-all-missing": (
        Case(modules={}, allow_missing=("a", "b"), wanted=("a", "b")),
        ["nothing to load for a, b", "missing: a, b", "allow_empty=True"],
    ),
    "missing-is-a-list-of-names": (
        Case(modules={"a": []}, wanted=("a", "b", "c"), allow_missing=("b",)),
        ["no module 'c'"],
    ),
}


@pytest.mark.parametrize(("case", "texts"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(tmp_path: Path, case: Case, texts: list[str]) -> None:
    tree = make_tree(tmp_path, case.modules, **case.files)
    with pytest.raises(BadInput) as error:
        closed(tree, case)
    for text in texts:
        assert text in str(error.value)
    assert error.value.evidence.expected


@pytest.mark.parametrize(
    "call",
    [
        lambda tree: resolve_closure(tree, "abc"),
        lambda tree: resolve_closure(tree, ["a"], allow_missing="abc"),
    ],
    ids=["wanted", "allow_missing"],
)
def test_a_text_is_no_list_of_names(tmp_path: Path, call: Callable[[ModuleTree], Closure]) -> None:
    with pytest.raises(BadInput, match="not a sequence of names") as error:
        call(make_tree(tmp_path, {"a": [], "b": [], "c": []}))
    assert error.value.evidence.expected == "['abc']"


def test_an_empty_request_needs_no_tree(tmp_path: Path) -> None:
    closure = resolve_closure(ModuleTree(tmp_path / "none"), ())
    assert (closure.modules, closure.files, closure.size_bytes) == ((), (), 0)


def test_files_and_sizes(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"a": ["bb"], "bb": []})
    closure = resolve_closure(tree, ["a"])
    assert closure.files == (tree.directory / "kernel/bb.ko", tree.directory / "kernel/a.ko")
    assert closure.size_bytes == len("module a") + len("module bb")
    assert (closure.release, closure.wanted) == (tree.release, ("a",))


def test_reasons(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path,
        {"a": ["b", "c", "d"], "b": ["c", "d"], "c": [], "d": [], "e": [], "f": ["g"], "g": []},
        softdep=["d pre: crypto-e"],
        alias=["crypto-e e"],
        weakdep=["c f"],
    )
    reasons = {
        module.name: module.reason for module in resolve_closure(tree, ["a", "crypto-e"]).modules
    }
    assert reasons == {
        "a": ("a",),
        "b": ("a", "depends", "b"),
        "c": ("a", "depends", "b", "depends", "c"),
        "d": ("a", "depends", "b", "depends", "d"),
        "e": (*("a", "depends", "b", "depends", "d"), "softdep pre", "crypto-e", "alias", "e"),
        "f": (*("a", "depends", "b", "depends", "c"), "weakdep", "f"),
        "g": (*("a", "depends", "b", "depends", "c"), "weakdep", "f", "depends", "g"),
    }
    wanted_by_alias = resolve_closure(tree, ["crypto-e"]).modules[0]
    assert wanted_by_alias.reason == ("crypto_e", "alias", "e")


def test_without_one_module(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, {"a-a": ["b", "c"], "b": ["c"], "c": []})
    closure = resolve_closure(tree, ["a-a"])
    assert closure.without("b").load_order == ("c", "a_a")
    assert closure.without("a-a").load_order == ("c", "b")
    assert closure.load_order == ("c", "b", "a_a")
    with pytest.raises(BadInput, match="no module 'd' to take out"):
        closure.without("d")


# Longer than the stack that Python gives to recursion.
CHAIN_LENGTH = sys.getrecursionlimit() + 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A random graph over m0, m1, …; a module needs only those before it."""

    hard: dict[str, list[str]]
    pre: dict[str, list[str]]
    post: dict[str, list[str]]
    weak: dict[str, list[str]]
    wanted: list[str]

    def reachable(self, *edges: dict[str, list[str]]) -> set[str]:
        found, ahead = set(self.wanted), list(self.wanted)
        while ahead:
            name = ahead.pop()
            for needs in edges:
                ahead.extend(set(needs.get(name, ())) - found)
                found.update(needs.get(name, ()))
        return found


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    names = [f"m{number}" for number in range(draw(st.integers(1, 9)))]
    few = st.lists(st.sampled_from(names), max_size=2, unique=True)
    sparse = st.dictionaries(st.sampled_from(names), few, max_size=4)
    hard: dict[str, list[str]] = {"m0": []}
    for number, name in enumerate(names[1:], 1):
        hard[name] = draw(st.lists(st.sampled_from(names[:number]), max_size=3, unique=True))
    return Graph(
        hard=hard,
        pre=draw(sparse),
        post=draw(sparse),
        weak=draw(sparse),
        wanted=draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)),
    )


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Yield a directory, in memory if there is such, for many trees that share their files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        make_tree(Path(directory), {f"m{number}": [] for number in range(CHAIN_LENGTH)})
        yield Path(directory)


def tree_of(root: Path, graph: Graph) -> ModuleTree:
    softdep = [f"{name} pre: {' '.join(needs)}" for name, needs in graph.pre.items()]
    softdep += [f"{name} post: {' '.join(needs)}" for name, needs in graph.post.items()]
    weakdep = [f"{name} {' '.join(needs)}" for name, needs in graph.weak.items()]
    directory = Path(tempfile.mkdtemp(dir=root)) / "lib" / "modules" / RELEASE
    directory.mkdir(parents=True)
    (directory / "kernel").symlink_to(root / "lib" / "modules" / RELEASE / "kernel")
    return make_tree(directory.parents[2], graph.hard, softdep=softdep, weakdep=weakdep)


@pytest.mark.parametrize("kind", ["hard", "pre", "post", "weak"])
def test_long_chains(root: Path, kind: str) -> None:
    names = [f"m{number}" for number in range(CHAIN_LENGTH)]
    chain = {name: [after] for name, after in pairwise(names)}
    edges: dict[str, dict[str, list[str]]] = {"hard": {}, "pre": {}, "post": {}, "weak": {}}
    edges[kind] = chain
    edges["hard"] = {name: edges["hard"].get(name, []) for name in names}
    closure = resolve_closure(tree_of(root, Graph(**edges, wanted=["m0"])), ["m0"])
    order = [module.name for module in closure.modules]
    assert order == (names[::-1] if kind in ("hard", "pre") else names)
    farthest = next(module for module in closure.modules if module.name == names[-1])
    assert len(farthest.reason) == 2 * CHAIN_LENGTH - 1
    forms: tuple[Form, ...] = ("tree", "json", "dot")
    for form in forms:
        assert names[-1] in render(closure, form)


def test_a_long_cycle_is_named_in_short(root: Path) -> None:
    names = [f"m{number}" for number in range(CHAIN_LENGTH)]
    hard = {name: [after] for name, after in pairwise([*names, "m0"])}
    tree = tree_of(root, Graph(hard=hard, pre={}, post={}, weak={}, wanted=["m0"]))
    with pytest.raises(BadInput, match=r"m0 → m1 → .* → … → .* → m0") as error:
        resolve_closure(tree, ["m0"])
    assert f"a cycle of {CHAIN_LENGTH}" in error.value.evidence.seen


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_closures_are_ordered_closed_minimal_and_deterministic(root: Path, graph: Graph) -> None:
    tree = tree_of(root, graph)
    closure = resolve_closure(tree, graph.wanted)
    again = resolve_closure(ModuleTree(tree.directory), graph.wanted)
    order = [module.name for module in closure.modules]
    # Closed and minimal: exactly what the edges lead to, once each.
    assert set(order) == graph.reachable(graph.hard, graph.pre, graph.post, graph.weak)
    assert set(closure.load_order) == graph.reachable(graph.hard, graph.pre, graph.post)
    assert len(order) == len(set(order))
    place = {name: number for number, name in enumerate(order)}
    assert all(place[need] < place[name] for name in order for need in graph.hard[name])
    for module in closure.modules:
        assert reason_holds(graph, module.reason)
    assert again == closure
    assert [m.reason for m in again.modules] == [m.reason for m in closure.modules]


def reason_holds(graph: Graph, reason: tuple[str, ...]) -> bool:
    edges = {
        "depends": graph.hard,
        "softdep pre": graph.pre,
        "softdep post": graph.post,
        "weakdep": graph.weak,
    }
    hops = zip(reason[::2], reason[1::2], reason[2::2], strict=False)
    return reason[0] in graph.wanted and all(
        name in edges[relation][requirer] for requirer, relation, name in hops
    )


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_softdeps_without_loops_come_before(root: Path, graph: Graph) -> None:
    names = list(graph.hard)
    pre = {n: [x for x in xs if names.index(x) < names.index(n)] for n, xs in graph.pre.items()}
    plain = Graph(hard=graph.hard, pre=pre, post={}, weak={}, wanted=graph.wanted)
    order = resolve_closure(tree_of(root, plain), graph.wanted).load_order
    assert all(order.index(x) < order.index(n) for n in order for x in pre.get(n, ()))


@settings(deadline=None, max_examples=30)
@given(graphs(), st.data())
def test_without_takes_out_one_and_keeps_the_order(
    root: Path, graph: Graph, data: st.DataObject
) -> None:
    closure = resolve_closure(tree_of(root, graph), graph.wanted)
    names = [module.name for module in closure.modules]
    gone = data.draw(st.sampled_from(names))
    names.remove(gone)
    assert [module.name for module in closure.without(gone).modules] == names
