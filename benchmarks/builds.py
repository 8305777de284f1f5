"""Figures of building kernels, their variants and modules."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_kernelvm.config import Requested, Source, VmConfig
from pytest_kernelvm.kernel.build import (
    PINNED,
    build_kernel,
    find_kernel,
    make_variables,
)
from pytest_kernelvm.kernel.outputs import outputs
from pytest_kernelvm.kernel.source import locate, patched
from pytest_kernelvm.kernel.store import Store
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.vm.cell import Cell
from pytest_kernelvm.vm.trial import try_modules
from pytest_kernelvm.vm.vm import Vm

JOBS = 2
# As a boot path would ask for it: a variant of a cell that differs in a symbol or two.
VARIANT = ("MTD", "MTD_PHRAM")
EDITED = ("init/do_mounts_initrd.c", "lib/string.c", "init/main.c")
MODULE = """\
#include <linux/module.h>
static int __init bench_init(void) { pr_info("bench %d\\n"); return 0; }
static void __exit bench_exit(void) {}
module_init(bench_init);
module_exit(bench_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("changes");
"""

Line = Callable[..., None]


@contextlib.contextmanager
def scratch(near: Store) -> Iterator[Path]:
    """Give a directory on a store's disk that is gone afterwards."""
    near.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=near.root) as directory:
        yield Path(directory)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fresh_store(directory: Path, store: Store) -> Store:
    """Return an empty store that has the unpacked sources of another."""
    for kind in ("sources", "uses"):
        (store.root / kind).mkdir(parents=True, exist_ok=True)
        (directory / kind).symlink_to(store.root / kind)
    return Store(directory, Silent())


def bench_build(config: VmConfig, store: Store, line: Line) -> None:
    """Compare a build into an empty store with plain make in the same unpacked source."""
    tree = patched(store, locate(store, config.kernel.source), config.kernel.patches)
    kernel = build_kernel(store, config)

    def plain(directory: Path) -> None:
        (directory / ".config").write_bytes((kernel.directory / "config").read_bytes())
        argv = ["make", f"--directory={tree}", f"O={directory}", *make_variables(config)]
        argv.append(f"-j{JOBS}")
        log = directory / "log"
        goals = [*config.kernel.images, "modules"]
        for words in (["olddefconfig"], goals, ["headers"]):
            run([*argv, *words], env=PINNED, timeout_s=7200, log=log)
        run([*argv, f"INSTALL_MOD_PATH={directory}/m", "modules_install"], timeout_s=600, log=log)

    with scratch(store) as one, scratch(store) as other:
        fresh = fresh_store(one, store)
        ours = timed(lambda: build_kernel(fresh, config, jobs=JOBS))
        theirs = timed(lambda: plain(other))
    line(f"build, {config.id}, plain: make -j{JOBS}", ours, theirs)


def variant_of(config: VmConfig) -> VmConfig:
    """Return a cell that differs in a symbol or two."""
    asked = (Requested(name=name, value="y", where="benchmark") for name in VARIANT)
    kernel = dataclasses.replace(config.kernel, symbols=(*config.kernel.symbols, *asked))
    return dataclasses.replace(config, kernel=kernel)


def bench_variant(config: VmConfig, store: Store, line: Line) -> None:
    """Compare a variant built from its parent's build directory with one built from nothing.

    Raises AssertionError if the bytes of any output differ.
    """
    variant = variant_of(config)
    with scratch(store) as one, scratch(store) as other:
        near, far = fresh_store(one, store), fresh_store(other, store)
        build_kernel(near, config, jobs=JOBS)
        ours = timed(lambda: build_kernel(near, variant, jobs=JOBS))
        theirs = timed(lambda: build_kernel(far, variant, jobs=JOBS))
        made = [
            {
                name: about["sha256"]
                for name, about in outputs(build_kernel(each, variant).directory).items()
                # What make said is not what it made.
                if name not in ("build.log", "entry.json", "config-uses.json")
            }
            for each in (near, far)
        ]
        differing = {name for name in made[0] if made[0][name] != made[1].get(name)}
        assert not differing, f"the bytes differ: {differing}"
    line(f"variant, {config.id}, plain: from nothing", ours, theirs)


def bench_found(config: VmConfig, store: Store, rounds: int, line: Line) -> None:
    """Measure how long a stored kernel of a working tree takes to be found after an edit."""
    with scratch(store) as directory:
        tree = working_tree(store, config, directory)
        edited = at_tree(config, tree)
        located = [timed(lambda: locate(store, edited.kernel.source))]
        for _round in range(rounds):
            edit(tree / EDITED[1])
            located.append(timed(lambda: find_kernel(store, edited)))
    line(f"dirty tree, {config.id}, plain: first", statistics.median(located[1:]), located[0])


def working_tree(store: Store, config: VmConfig, directory: Path) -> Path:
    """Return a copy of a cell's source, linked file by file; edits must replace files."""
    plain = patched(store, locate(store, config.kernel.source), ())
    tree = directory / "linux"
    run(["cp", "-al", plain, tree], timeout_s=600)
    return tree


def at_tree(config: VmConfig, tree: Path) -> VmConfig:
    """Return a cell whose kernel is a working tree's."""
    source = Source(kind="tree", value=str(tree), where="benchmark")
    return dataclasses.replace(config, kernel=dataclasses.replace(config.kernel, source=source))


def edit(path: Path) -> None:
    """Save a file with one more comment."""
    text = path.read_text()
    path.unlink()
    path.write_text(f"{text}\n/* {time.time_ns()} */\n")


def bench_edits(config: VmConfig, store: Store, rounds: int, line: Line) -> None:
    """Measure from saving a .c file of a working tree to a guest that runs it."""
    with scratch(store) as directory:
        tree = working_tree(store, config, directory)
        edited = at_tree(config, tree)
        build_kernel(store, edited, jobs=JOBS)
        build_s, ready_s = [], []
        for number in range(rounds):
            edit(tree / EDITED[number % len(EDITED)])
            started = time.perf_counter()
            cell = Cell(edited, Store(store.root, Silent()))
            build_s.append(timed(lambda cell=cell: cell.kernel))  # type: ignore[misc]
            logs = directory / f"guest{number}"
            logs.mkdir()
            with Vm(cell.bootable(modules=()), logs):
                ready_s.append(time.perf_counter() - started)
    line(
        f"save to booted guest, {config.id}, plain: build",
        statistics.median(ready_s),
        statistics.median(build_s),
    )


def bench_modules(config: VmConfig, store: Store, rounds: int, line: Line) -> None:
    """Measure from saving a module's .c file to its result in a guest."""
    cell = Cell(config, store)
    with scratch(store) as directory:
        sources = directory / "bench"
        sources.mkdir()
        (sources / "Kbuild").write_text("obj-m := bench.o\n")
        seconds, built = [], []
        for number in range(rounds + 1):
            (sources / "bench.c").write_text(MODULE.replace("%d", str(number)))
            logs = directory / f"guest{number}"
            logs.mkdir()
            started = time.perf_counter()
            trial = try_modules(cell, sources, logs)
            assert f"bench {number}" in trial.log
            seconds.append(time.perf_counter() - started)
            built.append(trial.build_s)
    line(
        f"module saved to result, {config.id}, plain: build",
        statistics.median(seconds[1:]),
        statistics.median(built[1:]),
    )
