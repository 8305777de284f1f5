"""However a test run ends, no QEMU survives it."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.process import Deadline, spawn

pytestmark = pytest.mark.slow

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
    while len(list(guests())) < 2:
        time.sleep(0.01)
    Path("qemu.tmp").write_text(" ".join(guests()))
    Path("qemu.tmp").rename("qemu.pids")
    time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        # Gone before the file was opened, or while it was read.
        return False


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
    (tmp_path / "test_waits.py").write_text(TEST)
    monkeypatch.chdir(tmp_path)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"-n{workers}"]
    argv += [f"--kernelvm-configs={cell.config.file.parent}"]
    argv += [f"--kernelvm-config={cell.config.id}", f"--kernelvm-store={cell.store.root}"]
    argv += [f"--basetemp={tmp_path / 'base'}"]
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
        deadline = Deadline(20)
        while any(runs(pid) for pid in pids) and not deadline.passed:
            time.sleep(0.02)
        assert not any(runs(pid) for pid in pids)
