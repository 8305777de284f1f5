"""A guest that floods its console ends its test, and a flood does not hold up an end."""

import os
import signal
import time
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.process import spawn
from tests.unit.hostile_text import unprintable
from tests.vm.project import make_project, pytest_argv

pytestmark = pytest.mark.slow

TESTS = """
import pytest
from pathlib import Path

LINE = "[    1.0] \\x1b[31mflood\\x1b[0m 0123456789abcdef 0123456789abcdef\\n"

def test_told_at_once(vm):
    for _time in range(100):
        vm.write("/dev/console", LINE * 800)
    raise AssertionError("not told")

def test_swallowed(vm):
    try:
        for _time in range(100):
            vm.write("/dev/console", LINE * 800)
    except Exception:
        pass

def test_the_next_one(vm):
    assert vm.read("/proc/version")
"""
ENDLESS = """
from pathlib import Path

def test_endless(vm):
    Path(__file__).with_name("begun").touch()
    while True:
        vm.write("/dev/console", "flood\\n" * 5000)
"""
# From the signal to the end of pytest and all that it started, where nothing else is to be done.
END_S = 2.0


def waiting() -> float:
    """Return how many processes there were for each processor lately, at least one."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.slow
def test_a_flood_of_the_console_is_reported(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nkernelvm_console_limit = 1\n")
    # A Malta's port takes a minute for 2 MiB.
    done = project.pytest("-s", "--junitxml=it.xml", timeout_s=900.0)
    assert "2 failed, 1 passed" in done.stdout
    assert done.stdout.count("hang: ") >= 2
    assert "the console was flooded while it was tested" in done.stdout
    assert "kernelvm_console_limit" in done.stdout
    assert "cut at 1 MiB" in done.stdout
    assert "\\x1b[31mflood" in done.stdout
    assert not unprintable(done.stdout)
    logs = list((tmp_path / "base").rglob("console.log"))
    assert max(log.stat().st_size for log in logs) < (1 << 20) + 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_flood(cell: Cell, tmp_path: Path, number: signal.Signals) -> None:
    make_project(tmp_path, cell, ENDLESS)
    argv = pytest_argv(cell, tmp_path, "-s", f"--rootdir={tmp_path}", str(tmp_path / "test_it.py"))
    with spawn(argv, output=tmp_path / "said") as run:
        begun = tmp_path / "begun"
        deadline = time.monotonic() + 200
        while not begun.exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert begun.exists(), (tmp_path / "said").read_text()[-2000:]
        time.sleep(2.0)
        os.kill(run.pid, number)
        sent = time.monotonic()
        run.wait(60.0)
        assert time.monotonic() - sent < END_S * waiting()
