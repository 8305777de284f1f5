"""What a run with guests says of itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.report.run import Tally, header, summary
from pytest_kernelvm.session.guests import GuestCounts
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import StagingDirectory, Store

CONFIGS = Path(__file__).parents[2] / "vm-configs"


def test_the_header_has_cells_versions_and_store(tmp_path: Path) -> None:
    cells = select_cells(CONFIGS, names=["malta", "aarch64-6.12"])
    told = header(cells, tmp_path / "store")
    assert len(told) == 3
    assert all(line.startswith("kernelvm: ") for line in told)
    assert told[0] == f"kernelvm: {', '.join(cell.id for cell in cells)}"
    assert "with tcg" in told[1]
    assert told[2].endswith(f"{tmp_path}/store")
    assert not (tmp_path / "store").exists()


def test_the_header_names_programs_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells = select_cells(CONFIGS, names=["malta-6.12"])
    monkeypatch.setenv("PATH", str(tmp_path))
    told = header(cells, tmp_path)
    assert "(qemu-system-mips is not installed)" in told[1]
    assert "(mips-linux-gnu-gcc is not installed)" in told[1]


def entry(work: StagingDirectory) -> dict[str, object]:
    (work.entry / "file").write_text("it")
    return {}


def test_the_store_knows_what_was_found_and_made(tmp_path: Path) -> None:
    first = Store(tmp_path, Silent())
    first.obtain(KERNELS, digest_of("1"), entry, label="one")
    first.obtain(KERNELS, digest_of("1"), entry, label="one")
    second = Store(tmp_path, Silent())
    for digest in "12":
        second.obtain(KERNELS, digest_of(digest), entry, label=digest)
    tally = Tally()
    tally.add_guests(GuestCounts(booted=1), first)
    assert (tally.found, tally.made) == ({}, {"kernels": 1})
    tally.add_guests(GuestCounts(restored=3, waiting=2), second)
    assert (tally.found, tally.made) == ({"kernels": 1}, {"kernels": 2})
    assert (tally.guests["booted"], tally.guests["restored"]) == (1, 3)


def test_the_tallies_of_workers_are_added() -> None:
    tally = Tally()
    one = Tally(guests=asdict(GuestCounts(restored=2)), found={"kernels": 1}, bundles=["a-1"])
    other = Tally(guests=asdict(GuestCounts(restored=3)), made={"snapshots": 1}, casts=["b.cast"])
    tally.add(asdict(one))
    tally.add(asdict(other))
    assert tally.guests["restored"] == 5
    assert (tally.found, tally.made) == ({"kernels": 1}, {"snapshots": 1})
    assert (tally.bundles, tally.casts) == (["a-1"], ["b.cast"])


def test_the_summary() -> None:
    tally = Tally(
        guests=asdict(GuestCounts(restored=7, waiting=5, booted=1, snapshots_made=2)),
        found={"kernels": 2, "snapshots": 1},
        made={"snapshots": 2},
        bundles=["a-1", "a-2", "a-3", "a-4", "a-5"],
        casts=["one.cast", "two.cast"],
    )
    seconds = {"malta": (3.25, 4), "arm": (1.0, 1), "maltael": (9.0, 2), "other": (0.5, 1)}
    assert summary(tally, seconds) == [
        "guests:  7 restored (5 ahead), 1 booted, 2 snapshots made",
        "store:   kernels 2 found; snapshots 1 found, 2 made",
        "slowest: maltael 9.0 s in 2 tests, malta 3.2 s in 4 tests, arm 1.0 s in 1 test, 1 more",
        "casts:   2 recorded; asciinema play one.cast",
        "left:    a-1, a-2, a-3, a-4, 1 more; `kernelvm kept` lists them",
    ]


def test_the_summary_of_nothing_is_empty() -> None:
    assert summary(Tally(), {}) == []
