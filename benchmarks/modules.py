"""The figures of `pytest_kernelvm.modules`, beside kmod's in the same run: no guest in them.

Ours is measured in this process, as the plugin uses it, from the opening of the tree on; kmod's is
a process from its start to its end.

`python -m benchmarks --modules TREE`; the tests leave Debian's arm64 tree below the store's
debian-packages.
"""

from __future__ import annotations

import random
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import (
    bests,
    compared,
    in_turn,
    line,
    medians,
    paired,
    scratch,
    timed,
)
from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.modprobe import simulate_modprobe
from pytest_kernelvm.modules.pruned import pruned_metadata
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import run

LOOKUPS = 10_000
SOME_MODULES = 40

MEMORY = """
import resource, sys
from pathlib import Path
from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.tree import ModuleTree
tree = ModuleTree(Path(sys.argv[1]))
kept = [resolve_closure(tree, [name]) for name in tree.modules]
orders = [closure.load_order for closure in kept]
tree.aliases.lookup("of:NxTyCz"), tree.symbols.lookup("symbol:x"), tree.builtin_aliases.lookup("x")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Kmod:
    """The host's modprobe on a tree, with no configuration but the host's command line."""

    def __init__(self, tree: ModuleTree, nothing: Path) -> None:
        root = tree.directory.parents[2]
        self._argv: list[str | Path] = ["modprobe", "-a", "--show-depends", "-d", root]
        self._argv += ["-S", tree.directory.name, "-C", nothing]

    def show(self, names: Sequence[str]) -> str:
        """Return what it shows for names."""
        return run([*self._argv, *names], timeout_s=60, check=False).stdout


def lookups(tree: ModuleTree) -> list[str]:
    """Return names that wildcards of modules.alias mean."""
    chosen = random.Random(1)
    wild = [pattern for pattern, _ in tree.aliases.lines() if "*" in pattern]
    names = (re.sub(r"\[([^\]])[^\]]*\]", r"\1", each) for each in chosen.choices(wild, k=LOOKUPS))
    return [name.replace("*", "0").replace("?", "0").replace("-", "_") for name in names]


def bench_modules(directory: Path, rounds: int) -> None:
    """Print the figures of one tree: lib/modules/RELEASE, which depmod has seen."""
    names = list(ModuleTree(directory).modules)
    line(f"modules of {directory.name}", str(len(names)))

    def open_and_close() -> None:
        assert resolve_closure(ModuleTree(directory), ["nft_ct"]).load_order

    def close_all() -> None:
        tree = ModuleTree(directory)
        for name in names:
            assert resolve_closure(tree, [name]).load_order

    def probe_all() -> None:
        tree = ModuleTree(directory)
        for name in names:
            assert simulate_modprobe(tree, name).found

    with scratch() as nothing:
        kmod = Kmod(ModuleTree(directory), nothing)
        measured = [timed(open_and_close) for _round in range(5 * rounds)]
        line("open the tree, one closure", f"{1000 * statistics.median(measured):.1f} ms")
        both = in_turn(
            lambda: timed(close_all), lambda: timed(lambda: kmod.show(names)), 5 * rounds
        )
        all_at_once = medians(both)
        compared("open, closures of all, plain: modprobe -a", *all_at_once)
        compared("  the best of these", *bests(both))
        compared(
            "open, mode modprobe of all, plain: modprobe -a",
            *paired(lambda: timed(probe_all), lambda: timed(lambda: kmod.show(names)), rounds),
        )
        some = random.Random(1).sample(names, SOME_MODULES)
        one_each_s = timed(lambda: [kmod.show([name]) for name in some]) / SOME_MODULES
        line(
            "closures of all, plain: a modprobe for each",
            f"{all_at_once[0]:.3f} s",
            f"{one_each_s * len(names):.3f} s",
            f"1/{one_each_s * len(names) / all_at_once[0]:.0f}",
        )
    bench_lookups(directory)
    bench_packing(directory, rounds)
    done = run([sys.executable, "-c", MEMORY, directory], timeout_s=60)
    line("memory for all closures", f"{int(done.stdout) / 1024:.0f} MiB")


def bench_lookups(directory: Path) -> None:
    """Measure lookups through wildcards, the index included."""
    asked = lookups(ModuleTree(directory))
    tree = ModuleTree(directory)
    found: list[tuple[str, ...]] = []
    took_s = timed(lambda: found.extend(tree.aliases.lookup(name) for name in asked))
    assert all(found)
    line(f"{LOOKUPS} alias lookups with wildcards", f"{took_s:.3f} s")


def bench_packing(directory: Path, rounds: int) -> None:
    """Measure what goes into an initramfs of one closure: its metadata and files."""

    def pack() -> None:
        tree = ModuleTree(directory)
        closure = resolve_closure(tree, ["nft_ct"])
        pruned_metadata(tree, closure)
        for path in closure.files:
            path.read_bytes()

    measured = [timed(pack) for _round in range(5 * rounds)]
    line("open, close and pack one closure", f"{1000 * statistics.median(measured):.1f} ms")
