"""Print the figures: `make bench`, or `python -m benchmarks --help` for fewer or more of them.

Two things that are compared run in turn, A B A B, so that a machine whose speed drifts slows both;
medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import boot_paths, builds, guests
from benchmarks.measuring import compared, line, paired, scratch, timed
from benchmarks.modules import bench_modules
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.kernel.build.build import find_kernel
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import StreamProgress
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.store.store import Store, default_store


def bench_store(configs: Sequence[CellConfig], store: Store, rounds: int) -> None:
    """Measure how long a stored kernel takes to be found."""
    config = configs[0]
    found_s = statistics.median(
        timed(lambda: find_kernel(store, config)) for _round in range(rounds)
    )
    line(f"kernel found in the store, {config.id}", f"{found_s:.3f} s")


def bench_plugin(rounds: int) -> None:
    """Compare an empty pytest run with one that does not load the plugin."""
    with scratch() as directory:
        (directory / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

        def pytest(*extra: str) -> float:
            return timed(lambda: run([*argv, *extra], cwd=directory, timeout_s=60))

        pair = paired(pytest, lambda: pytest("-p", "no:kernelvm"), 3 * rounds)
    compared("pytest without guests, plain: no plugin", *pair)


def bench_second_run(cell: Cell) -> None:
    """Measure `pytest -m vm` with everything stored."""
    argv = [sys.executable, "-m", "pytest", "-q", "-m", "vm", "tests/vm/test_kernel.py"]
    argv += ["--kernelvm-config", cell.config.id]
    done = run(argv, timeout_s=600)
    last = done.stdout.strip().splitlines()[-1]
    line(f"second pytest -m vm, {cell.config.id}", f"{done.elapsed_s:.1f} s", last[:30])


def bench_builds(config: CellConfig, store: Store, rounds: int, *, whole: bool) -> None:
    """Measure builds: of the smallest configuration, and of a whole cell."""
    small = builds.tiny(config)
    builds.bench_build(small, store, rounds, compared)
    builds.bench_two(small, store, compared)
    builds.bench_ccache(small, store, compared)
    if whole:
        builds.bench_ccache(config, store, compared)
        builds.bench_found(config, store, rounds, compared)
        builds.bench_modules(config, store, rounds, compared)
        builds.bench_edits(config, store, rounds, compared)
        builds.bench_variants(config, store, compared)
        builds.bench_build(config, store, 1, compared)


def main() -> None:
    """Print the figures that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--config", action="append", default=[], help="cells, default all")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument(
        "--modules", type=Path, metavar="TREE", help="only of a lib/modules/RELEASE"
    )
    parser.add_argument(
        "--build", action="store_true", help="only of building kernels, small and whole: an hour"
    )
    parser.add_argument(
        "--build-small", action="store_true", help="only of building small kernels: minutes"
    )
    parser.add_argument(
        "--phram", action="store_true", help="only of reading memory on 5.10, which is fetched"
    )
    arguments = parser.parse_args()
    if arguments.modules:
        line("", "ours", "plain", "ratio")
        bench_modules(arguments.modules, arguments.rounds)
        return
    store = Store(default_store(), StreamProgress())
    if arguments.phram:
        line("", "ours", "plain", "ratio")
        boot_paths.bench_phram(store, arguments.rounds)
        return
    configs = select_cells(Path("vm-configs"), names=arguments.config)
    if arguments.build or arguments.build_small:
        line("", "ours", "plain", "ratio")
        bench_builds(configs[0], store, arguments.rounds, whole=arguments.build)
        return
    cells = [Cell(config, store) for config in configs]
    for cell in cells:
        cell.initramfs(cell.closure(()))
    line("", "ours", "plain", "ratio")
    guests.bench_boots(cells, arguments.rounds)
    guests.bench_restores(cells, arguments.rounds)
    guests.bench_agent(cells, arguments.rounds)
    guests.bench_many(cells)
    bench_store(configs, store, arguments.rounds)
    bench_plugin(arguments.rounds)
    bench_second_run(cells[0])
    bench_modules(cells[0].kernel.module_tree, arguments.rounds)
    builds.bench_modules(configs[0], store, arguments.rounds, compared)


if __name__ == "__main__":
    main()
