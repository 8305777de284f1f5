"""What is shown of a run, while it runs and at its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from tests.vm.project import make_project

pytestmark = [pytest.mark.slow, pytest.mark.any_cell]

TESTS = """\
import pytest

@pytest.mark.parametrize("number", range(4))
def test_says(vm, number):
    vm.write("/dev/kmsg", f"<4>said by test {number}\\n")
    vm.console.expect(f"said by test {number}")
"""
SLOW = """\
def test_slow(cell, boot_vm):
    sleeper = cell.compile_program("int main(void) { sleep(13); return 0; }")
    boot_vm(files={"/sleeper": sleeper}).run("/sleeper", timeout_s=60)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_done_is_summed_up(cell: Cell, tmp_path: Path, workers: int) -> None:
    project = make_project(tmp_path, cell, TESTS)
    name = cell.config.id
    first = project.pytest(f"-n{workers}").stdout.splitlines()
    assert f"kernelvm: {name}" in first
    [guests] = [line for line in first if line.startswith("guests:  ")]
    assert guests.startswith("guests:  4 restored (")
    assert guests.endswith(", 0 booted, 1 snapshots made")
    [slowest] = [line for line in first if line.startswith("slowest: ")]
    assert slowest.startswith(f"slowest: {name} ")
    assert slowest.endswith(" s in 4 tests")
    second = project.pytest(f"-n{workers}").stdout
    assert ", 0 booted, 0 snapshots made" in second
    assert "; snapshots " in second


def test_recordings(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, TESTS)
    told = project.pytest("--kernelvm-record").stdout
    casts = sorted((tmp_path / "kernelvm-casts").iterdir())
    assert [cast.name for cast in casts] == [
        f"test_it.py-test_says-{cell.config.id}-{number}.cast" for number in range(4)
    ]
    assert f"casts:   4 recorded; asciinema play {casts[0]}" in told
    for number, cast in enumerate(casts):
        header, *events = [json.loads(line) for line in cast.read_text().splitlines()]
        assert header["version"] == 2
        text = "".join(event[2] for event in events)
        assert "Linux version" in text
        assert f"said by test {number}" in text


def test_the_console_is_shown_live(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, TESTS)
    shown = project.pytest("-s", "-k", f"{cell.config.id}-2").stdout
    [line] = [line for line in shown.splitlines() if "said by test 2" in line]
    assert line.count(f"{cell.config.id} | [") == 1
    assert "Linux version" not in shown
    assert "said by test" not in project.pytest("-k", "2").stdout


def test_what_is_waited_for_is_shown(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, SLOW)
    waited = project.pytest("-v")
    assert waited.status == 0, waited.stdout
    assert f"{cell.config.id}: waiting for /sleeper, " in waited.stderr
    assert "waiting for" not in project.pytest().stderr
