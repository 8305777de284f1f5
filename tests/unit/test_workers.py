"""Workers of pytest-xdist that die: what runs again, and what outlives the process that shares out.

Real processes; nothing is built.
"""

from __future__ import annotations

import collections
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.process import spawn

MACHINES = 'arch: mips\nkernel: {version: ["6.1", "6.12"]}\n'
pytestmark = pytest.mark.slow
# How long a worker may outlive the process that shares out its tests.
OUTLIVES_S = 2.0


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two cells and an empty store."""
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("KERNELVM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    pytester.mkdir("vm-configs").joinpath("malta.yaml").write_text(MACHINES)
    return pytester.path


# Every test notes that it ran; those in FATAL kill their worker.
CRASHING = """
import os, signal, sys, time
import pytest

FATAL = {fatal}

def ran(name, number):
    with open("ran", "a") as file:
        file.write(f"{{name}} {{number}}\\n")
    if (name, number) in FATAL:
        os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.parametrize("number", range(6))
def test_cell(cell, number):
    ran(cell.config.id, number)

@pytest.mark.parametrize("number", range(4))
def test_plain(number):
    ran("plain", number)
"""
ALL = [
    *((cell, number) for cell in ("malta-6.1", "malta-6.12") for number in range(6)),
    *(("plain", number) for number in range(4)),
]


def runs(pytester: pytest.Pytester) -> collections.Counter[tuple[str, int]]:
    """Return how often each test began."""
    lines = (pytester.path / "ran").read_text().splitlines()
    return collections.Counter((name, int(number)) for name, number in map(str.split, lines))


@pytest.mark.parametrize(
    "fatal",
    [
        [("malta-6.1", 0)],
        [("malta-6.12", 2)],
        [("plain", 3)],
        [("malta-6.1", 1), ("malta-6.1", 2)],
        [("malta-6.1", 0), ("malta-6.12", 5), ("plain", 1)],
    ],
    ids=str,
)
def test_a_test_that_kills_its_worker_runs_once_and_others_run(
    fatal: list[tuple[str, int]], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(CRASHING.format(fatal=fatal))
    result = pytester.runpytest_subprocess("-n2")
    result.assert_outcomes(failed=len(fatal), passed=len(ALL) - len(fatal))
    assert runs(pytester) == collections.Counter(ALL)
    crashed = [line for line in result.outlines if "crashed while running" in line]
    assert len([line for line in crashed if line.startswith("worker ")]) == len(fatal)


@pytest.mark.parametrize("restarts", [0, 1])
def test_workers_that_are_not_replaced(restarts: int, pytester: pytest.Pytester) -> None:
    fatal = [("malta-6.1", 0), ("malta-6.1", 3), ("malta-6.12", 0), ("plain", 0)]
    pytester.makepyfile(CRASHING.format(fatal=fatal))
    result = pytester.runpytest_subprocess("-n1", f"--max-worker-restart={restarts}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*worker*crash*"])
    assert set(runs(pytester).values()) == {1}
    result.assert_outcomes(failed=restarts + 1, passed=sum(runs(pytester).values()) - restarts - 1)


# As pytest-rerunfailures asks for it.
RERUN = """
def pytest_handlecrashitem(crashitem, report, sched):
    if not hasattr(sched, "asked_for_again"):
        sched.asked_for_again = True
        report.outcome = "rerun"
        sched.mark_test_pending(crashitem)
"""


@pytest.mark.parametrize("fatal", [("malta-6.1", 1), ("plain", 3)], ids=str)
def test_a_crashing_test_may_be_asked_for_again(
    fatal: tuple[str, int], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(RERUN)
    pytester.makepyfile(CRASHING.format(fatal=[fatal]))
    result = pytester.runpytest_subprocess("-n2")
    result.assert_outcomes(failed=1, passed=len(ALL) - 1)
    assert runs(pytester) == collections.Counter(ALL) + collections.Counter([fatal])


# A worker that has a fixture of ours, a child as a guest is one, and a test that does not end.
STUCK = """
import os, signal, sys, time
from pathlib import Path
import pytest
from pytest_kernelvm.process import spawn

@pytest.fixture
def child(cell, tmp_path):
    with spawn(["sleep", "600"], output=tmp_path / "output") as child:
        yield child

def test_stuck(child):
    Path(f"pids-{{os.getpid()}}").write_text(f"{{os.getpid()}} {{child.pid}}")
    try:
        {stuck}
    finally:
        Path("interrupted").touch()
"""
STUCKS = {
    "sleeps": "time.sleep(600)",
    "computes": "while True: pass",
    "waits for its child": "child.wait(600)",
    "hears nothing": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True: time.sleep(600)
""",
    "catches all": """
        while True:
            try: time.sleep(600)
            except BaseException: pass
""",
}


def ended(pids: list[int]) -> bool:
    """Whether processes are gone; one that nobody has waited for yet is."""
    return not any(_state(pid) not in ("", "Z") for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def within(seconds: float, reached: Callable[[], bool]) -> bool:
    """Wait for something; return whether it was reached in time."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("stuck", STUCKS)
def test_workers_end_with_the_process_that_distributes_tests(
    stuck: str, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makepyfile(test_it=STUCK.format(stuck=STUCKS[stuck]))
    argv = [sys.executable, "-m", "pytest", "-n2", f"--rootdir={pytester.path}"]
    argv += [f"--basetemp={tmp_path / 'base'}", str(pytester.path)]
    with spawn(argv, output=tmp_path / "output") as controller:

        def noted() -> list[Path]:
            return [file for file in pytester.path.glob("pids-*") if file.read_text()]

        assert within(240, lambda: len(noted()) == 2), (tmp_path / "output").read_text()
        pids = [int(word) for file in noted() for word in file.read_text().split()]
        assert not ended(pids)
        os.kill(controller.pid, signal.SIGKILL)
        assert within(OUTLIVES_S, lambda: ended(pids))
    if stuck == "sleeps":
        assert (pytester.path / "interrupted").exists()
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_a_run_that_ends_by_itself_is_not_cut_short(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import time
        from pathlib import Path
        import pytest

        @pytest.fixture(scope="session")
        def slow():
            yield
            time.sleep(2)
            with open("torn-down", "a") as file: file.write("x")
        """
    )
    pytester.makepyfile("def test_x(slow, cell): pass")
    pytester.runpytest_subprocess("-n2").assert_outcomes(passed=2)
    assert (pytester.path / "torn-down").read_text() == "xx"
