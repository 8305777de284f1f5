"""Measuring, and the rows of the table."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def paired(
    ours: Callable[[], float], plain: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """Return the medians of what two measurements say, made in turn after one of each unmeasured.

    rounds: how often each is measured.
    """
    return medians(in_turn(ours, plain, rounds))


def in_turn(
    ours: Callable[[], float], plain: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Return what two measurements say, made in turn after one of each unmeasured."""
    ours()
    plain()
    return [(ours(), plain()) for _round in range(rounds)]


def medians(both: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the medians of measurements made in turn."""
    return statistics.median(a for a, _ in both), statistics.median(b for _, b in both)


def bests(both: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the least of measurements made in turn: what others on the machine disturb least."""
    return min(a for a, _ in both), min(b for _, b in both)


def line(what: str, ours: str, plain: str = "", ratio: str = "") -> None:
    """Print one row of the table."""
    print(f"{what:44} {ours:>14} {plain:>14} {ratio:>8}", flush=True)


def compared(what: str, ours: float, plain: float) -> None:
    """Print a pair of times with their ratio."""
    digits = 3 if plain > 0.01 else 6
    line(what, f"{ours:.{digits}f} s", f"{plain:.{digits}f} s", f"{ours / plain:.2f}")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kernelvm-bench-") as directory:
        yield Path(directory)
