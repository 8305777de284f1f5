"""Figures of building kernels, their variants and modules."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.kernel.build.build import Kernel, build_kernel, find_kernel
from pytest_kernelvm.kernel.build.configure import open_kconfig_session
from pytest_kernelvm.kernel.build.keys import PINNED, make_variables
from pytest_kernelvm.kernel.build.outputs import outputs
from pytest_kernelvm.kernel.source.source import locate, patched, patched_for
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.session.smoke_tests import try_modules
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.toolchain.compiler import compiler_environment
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.boot_variants import with_device_tree, without_kexec

JOBS = 2
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


def tiny(config: CellConfig) -> CellConfig:
    """Return a cell of the same machine and source with the smallest of configurations."""
    kernel = dataclasses.replace(
        config.kernel, base="tinyconfig", fragments=(), symbols=(), patches=(), conditional=()
    )
    return dataclasses.replace(config, id=f"{config.id}-tinyconfig", kernel=kernel)


def bench_build(config: CellConfig, store: Store, rounds: int, line: Line) -> None:
    """Compare a build into an empty store with plain make in the same unpacked source.

    Both configure, compile, make headers and install modules; make is given the final .config.
    Without ccache, of which each would help the other.
    """
    tree = patched_for(store, locate(store, config.kernel.source), config.kernel)
    with open_kconfig_session(store, config) as configuration:
        decision = configuration.configure()
    goals = [*config.kernel.images, "headers"]
    has_modules = decision.values.get("MODULES") == "y"

    def ours() -> float:
        with scratch(store) as directory:
            fresh = fresh_store(directory, store)
            return timed(lambda: build_kernel(fresh, config, jobs=JOBS))

    def plain() -> float:
        with scratch(store) as directory:
            argv = ["make", f"--directory={tree}", f"O={directory}", *make_variables(config)]
            argv.append(f"-j{JOBS}")
            (directory / ".config").write_text(decision.text)

            def make(*goals: str) -> None:
                run([*argv, *goals], env=PINNED, timeout_s=7200, log=directory / "log")

            def everything() -> None:
                make("olddefconfig")
                make(*goals, *(["modules"] if has_modules else []))
                if has_modules:
                    make(f"INSTALL_MOD_PATH={directory / 'installed'}", "modules_install")

            return timed(everything)

    with without_ccache():
        line(f"build, {config.id}, plain: make -j{JOBS}", *best_of(ours, plain, rounds))


def best_of(
    ours: Callable[[], float], plain: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """Return the best of what each of two measurements says, made in turn."""
    both = [(ours(), plain()) for _round in range(rounds)]
    return min(a for a, _ in both), min(b for _, b in both)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables for us and our children, and take them back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def without_ccache() -> contextlib.AbstractContextManager[None]:
    """Let ccache pass everything on."""
    return environment(CCACHE_DISABLE="1")


def bench_ccache(config: CellConfig, store: Store, line: Line) -> None:
    """Compare a build in another directory with a warm ccache with the one that warmed it."""
    if not shutil.which("ccache"):
        return
    with scratch(store) as cache, environment(CCACHE_DIR=str(cache)):
        seconds = []
        for _build in ("cold", "warm"):
            with scratch(store) as directory:
                fresh = fresh_store(directory, store)
                seconds.append(timed(lambda f=fresh: build_kernel(f, config, jobs=JOBS)))  # type: ignore[misc]
    line(f"build, {config.id}, warm ccache, plain: cold", seconds[1], seconds[0])


def bench_two(config: CellConfig, store: Store, line: Line) -> None:
    """Compare two who want one kernel at the same time with one alone.

    Raises AssertionError unless one of them has built it and the other one waited.
    """

    def build(directory: Path) -> int:
        mine = Store(directory, Silent())
        build_kernel(mine, config, jobs=JOBS)
        return sum(kind == "kernels" for kind, _digest in mine.made)

    def seconds(workers: int) -> float:
        with scratch(store) as directory, ThreadPoolExecutor(workers) as pool:
            fresh_store(directory, store)
            made: list[int] = []
            took_s = timed(lambda: made.extend(pool.map(build, [directory] * workers)))
            assert sum(made) == 1
            return took_s

    with without_ccache():
        two_s, one_s = seconds(2), seconds(1)
    line(f"two want one kernel, {config.id}, plain: one", two_s, one_s)


def variants_of(config: CellConfig, store: Store) -> dict[str, CellConfig]:
    """Return cells as boot paths ask for them: other symbols, other patches."""
    cell = Cell(config, store)
    found = {"no kexec": without_kexec(cell).config}
    if config.arch.first_stage:
        found["device tree"] = with_device_tree(cell).config
    return found


def bench_variants(config: CellConfig, store: Store, line: Line) -> None:
    """Compare variants built from their parent's build directory with such built from nothing.

    Raises AssertionError if the bytes of any output differ.
    """
    with scratch(store) as one:
        near = fresh_store(one, store)
        build_kernel(near, config, jobs=JOBS)
        for name, variant in variants_of(config, store).items():
            with scratch(store) as other:
                far = fresh_store(other, store)
                ours = timed(lambda v=variant: build_kernel(near, v, jobs=JOBS))  # type: ignore[misc]
                theirs = timed(lambda v=variant, f=far: build_kernel(f, v, jobs=JOBS))  # type: ignore[misc]
                made, again = (_digests(build_kernel(each, variant)) for each in (near, far))
                differing = {name for name in {*made, *again} if made.get(name) != again.get(name)}
                assert not differing, f"the bytes differ: {differing}"
            line(f"variant, {config.id}, {name}, plain: from nothing", ours, theirs)


def _digests(kernel: Kernel) -> dict[str, str]:
    """Return the digests of what make made; what it said is not among that."""
    return {
        name: about["sha256"]
        for name, about in outputs(kernel.directory).items()
        if name not in ("build.log", "entry.json", "config-uses.json")
    }


def bench_found(config: CellConfig, store: Store, rounds: int, line: Line) -> None:
    """Measure a store hit: of a Debian source, and of a working tree right after an edit.

    Beside the latter stands what `find` takes to look at the tree's files.
    """
    found = [timed(lambda: find_kernel(store, config)) for _round in range(rounds)]
    with scratch(store) as directory:
        tree = working_tree(store, config, directory)
        edited = at_tree(config, tree)
        locate(store, edited.kernel.source)
        argv: list[str | Path] = ["find", tree, "-printf", "%s %T@ %C@ %i %p"]
        hits, looks = [], []
        for _round in range(rounds):
            edit(tree / EDITED[1])
            hits.append(timed(lambda: find_kernel(store, edited)))
            looks.append(timed(lambda: run(argv, timeout_s=600)))
    line(f"store hit, {config.id}, plain: the same", min(found), min(found))
    line(f"store hit, {config.id}, dirty tree, plain: find", min(hits), min(looks))


def working_tree(store: Store, config: CellConfig, directory: Path) -> Path:
    """Return a copy of a cell's source. Links would change when others link to the same files."""
    plain = patched(store, locate(store, config.kernel.source), ())
    tree = directory / "linux"
    run(["cp", "-a", "--reflink=auto", plain, tree], timeout_s=1800)
    return tree


def at_tree(config: CellConfig, tree: Path) -> CellConfig:
    """Return a cell whose kernel is a working tree's."""
    source = Source(kind="tree", value=str(tree), where="benchmark")
    return dataclasses.replace(config, kernel=dataclasses.replace(config.kernel, source=source))


def edit(path: Path) -> None:
    """Save a file with one more comment."""
    text = path.read_text()
    path.write_text(f"{text}\n/* {time.time_ns()} */\n")


def bench_edits(config: CellConfig, store: Store, rounds: int, line: Line) -> None:
    """Measure from saving a .c file of a working tree to a guest that runs it.

    Beside it stands plain make of the image in the same build directory after such an edit.
    """
    with scratch(store) as directory:
        tree = working_tree(store, config, directory)
        edited = at_tree(config, tree)
        build_kernel(store, edited, jobs=JOBS)
        ready_s, make_s = [], []
        for number in range(rounds):
            name = EDITED[number % len(EDITED)]
            edit(tree / name)
            started = time.perf_counter()
            cell = Cell(edited, Store(store.root, Silent()))
            assert cell.kernel
            logs = directory / f"guest{number}"
            logs.mkdir()
            with boot_guest(cell.bootable(modules=()), logs):
                ready_s.append(time.perf_counter() - started)
            make_s.append(_plain_make(edited, store, name))
    line(f"save to booted guest, {config.id}, plain: make", min(ready_s), min(make_s))


def _plain_make(config: CellConfig, store: Store, name: str) -> float:
    """Touch a file in the build directory that was used last, and make the image there."""
    note = max((store.root / "builds").glob("*/note.json"), key=lambda path: path.stat().st_mtime)
    tree = note.with_name("tree")
    (tree / name).touch()
    argv = ["make", f"--directory={tree}", f"O={tree / '.objects'}", *make_variables(config)]
    argv += [f"-j{JOBS}", config.kernel.image]
    env = PINNED | compiler_environment(store, config.arch)
    return timed(lambda: run(argv, env=env, timeout_s=7200))


def bench_modules(config: CellConfig, store: Store, rounds: int, line: Line) -> None:
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
    line(f"module saved to result, {config.id}, plain: build", min(seconds[1:]), min(built[1:]))
