"""However a test run ends, no QEMU survives it."""

import os
import signal
import time
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.process import Deadline, spawn
from tests.vm.project import pytest_argv

pytestmark = [pytest.mark.slow, pytest.mark.any_cell]

# What pytest itself has of a timeout, which counts from a test's setup on.
DUMP = ("-ofaulthandler_timeout=10", "-ofaulthandler_exit_on_timeout=true")

# The second test's guest is restored while the first one runs.
TEST = """\
import os
import time
from pathlib import Path

import pytest

def guests():
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(") ")
        except OSError:
            continue
        if "(qemu" in name and int(rest.split()[1]) == os.getpid():
            yield path.parent.name

@pytest.mark.parametrize("number", range(2))
def test_waits(vm, number):
    assert vm.pid in map(int, guests())
    while not number and len(list(guests())) < 2:
        time.sleep(0.01)
    Path("qemu.tmp").write_text(" ".join(guests()))
    Path("qemu.tmp").rename("qemu.pids")
    END
"""


def runs(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        # Gone before the file was opened, or while it was read.
        return False


def argv_of(cell: Cell, directory: Path, end: str, *options: str) -> list[str]:
    """Return the command of a run whose first test ends in a certain way, in a directory."""
    (directory / "test_waits.py").write_text(TEST.replace("END", end))
    return pytest_argv(cell, directory, *options, "test_waits.py")


def assert_gone(pids: list[int]) -> None:
    deadline = Deadline(20)
    while any(runs(pid) for pid in pids) and not deadline.passed:
        time.sleep(0.02)
    assert not any(runs(pid) for pid in pids)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        pytest.param(signal.SIGINT, 0, id="SIGINT"),
        pytest.param(signal.SIGTERM, 0, id="SIGTERM"),
        pytest.param(signal.SIGHUP, 0, id="SIGHUP"),
        pytest.param(signal.SIGKILL, 0, id="SIGKILL"),
        pytest.param(signal.SIGKILL, 1, id="SIGKILL-xdist"),
    ],
)
def test_no_qemu_survives(
    cell: Cell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    workers: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = argv_of(cell, tmp_path, "time.sleep(600)", f"-n{workers}")
    output = tmp_path / "output"
    with spawn(argv, output=output) as child:
        deadline = Deadline(120)
        while not Path("qemu.pids").exists():
            assert child.poll() is None, output.read_text()
            assert not deadline.passed, output.read_text()
            time.sleep(0.02)
        pids = [int(pid) for pid in Path("qemu.pids").read_text().split()]
        assert len(pids) == 2
        assert all(runs(pid) for pid in pids)
        os.kill(child.pid, number)
        assert child.wait(60) is not None
        assert_gone(pids)


@pytest.mark.parametrize(
    ("end", "options", "says"),
    [
        pytest.param("os._exit(3)", ["-n0"], "", id="exit"),
        pytest.param("os._exit(3)", ["-n1"], "crashed", id="crash-of-a-worker"),
        pytest.param("os.kill(os.getpid(), 9)", ["-n1"], "crashed", id="SIGKILL-of-a-worker"),
        pytest.param("assert not number", ["-n0", "-x"], "1 failed, 1 passed", id="x"),
        pytest.param("assert number", ["-n0", "-x"], "stopping after 1 failures", id="x-first"),
        pytest.param("assert number", ["-n0", "--pdb"], "Exit: Quitting debugger", id="pdb"),
        pytest.param("time.sleep(600)", ["-n0", *DUMP], "Timeout (0:00:10)!", id="timeout"),
    ],
)
def test_no_qemu_survives_an_end_from_inside(
    cell: Cell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "output"
    with spawn(argv_of(cell, tmp_path, end, *options), output=output) as child:
        assert child.wait(120) is not None, output.read_text()
        said = output.read_text()
        assert says in said
        assert_gone([int(pid) for pid in Path("qemu.pids").read_text().split()])
