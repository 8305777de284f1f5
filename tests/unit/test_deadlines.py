"""How long a guest is waited for, with real processes that sleep, spin, starve and stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_kernelvm.process import Deadline, spawn
from pytest_kernelvm.vm.verdict.deadlines import BootDeadline, GuestDeadline, ThreadTimes, work_of

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
SPINNER = [sys.executable, "-c", "while True: pass"]

with_schedstat = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this kernel has no /proc/PID/schedstat"
)


def until(condition: Callable[[], bool]) -> None:
    deadline = Deadline(60)
    while not condition():
        assert not deadline.passed
        time.sleep(0.02)


def is_ready(pid: int, name: str) -> bool:
    return name in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_process_that_is_gone_has_no_work(tmp_path: Path) -> None:
    with spawn(["true"], output=tmp_path / "out") as child:
        child.wait(60)
        assert work_of(child.pid) is None


@with_schedstat
def test_work_of_all_threads_counts() -> None:
    before = work_of(os.getpid())
    until(
        lambda: (work_of(os.getpid()) or ThreadTimes(ran_s=0, starved_s=0, stopped=False)) != before
    )


def test_a_stopped_process_is_seen(tmp_path: Path) -> None:
    def stopped() -> bool:
        work = work_of(child.pid)
        return bool(work and work.stopped)

    with spawn(SLEEPER, output=tmp_path / "out") as child:
        assert not stopped()
        os.kill(child.pid, signal.SIGSTOP)
        until(stopped)
        os.kill(child.pid, signal.SIGCONT)
        until(lambda: not stopped())


def test_a_sleeping_guest_is_not_excused(tmp_path: Path) -> None:
    with spawn(SLEEPER, output=tmp_path / "out") as child:
        until(lambda: is_ready(child.pid, "sleep"))
        deadline = GuestDeadline(0.3, child.pid)
        until(lambda: deadline.passed)
        deadline.freeze()
        assert deadline.elapsed_s - deadline.uncounted_s >= 0.3
        assert deadline.ran_s < deadline.elapsed_s
        assert deadline.remaining_s == 0.0


@with_schedstat
def test_a_starving_guest_gets_its_time(tmp_path: Path) -> None:
    """Where all processors are taken several times, the clock runs ahead of its own time."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(spawn(SPINNER, output=tmp_path / "out"))
            for _ in range(4 * (os.cpu_count() or 1))
        ]
        pid = children[0].pid
        until(lambda: is_ready(pid, "while True"))
        deadline = GuestDeadline(0.5, pid)
        deadline.note(work_of(pid))
        until(lambda: deadline.elapsed_s > 1.0 or deadline.passed)
        until(lambda: deadline.passed)
        deadline.freeze()
        assert deadline.uncounted_s > 0
        # The kernel counts a thread's turn in the queue when it is over.
        assert deadline.elapsed_s - deadline.uncounted_s >= 0.3
        assert "got no processor and do not count" in deadline.description
        assert deadline.description.endswith("limit: 0.5 s")


def test_a_process_that_is_gone_does_not_keep_anybody_waiting(tmp_path: Path) -> None:
    with spawn(["true"], output=tmp_path / "out") as child:
        child.wait(60)
    deadline = GuestDeadline(0.1, child.pid)
    until(lambda: deadline.passed)
    assert deadline.ran_s == 0.0
    assert deadline.uncounted_s == 0.0


def test_the_description_of_a_passed_deadline_does_not_change() -> None:
    deadline = GuestDeadline(0.0, os.getpid())
    deadline.freeze()
    description = deadline.description
    time.sleep(0.15)
    deadline.freeze()
    assert deadline.description == description


def test_a_boot_without_a_sign_of_life_is_given_up_early() -> None:
    deadline = BootDeadline(60.0, os.getpid(), lambda: 0.0, "60 s")
    assert 0.0 < deadline.remaining_s <= 10.0
    assert deadline.waited_s == 10.0
    assert "limit: 10 s without a sign of life (60 s in all)" in deadline.description


def test_each_sign_of_life_gives_a_boot_new_time() -> None:
    signs = [0.0]
    deadline = BootDeadline(36.0, os.getpid(), lambda: signs[0], "36 s")
    until(lambda: deadline.remaining_s < 5.9)
    signs[0] = time.monotonic()
    assert deadline.remaining_s > 5.9


def test_a_short_boot_limit_is_the_whole_limit() -> None:
    deadline = BootDeadline(0.1, os.getpid(), lambda: 0.0, "0.1 s")
    # This process is the guest here: where it is kept from running, its limit moves on.
    until(lambda: deadline.passed and deadline.waited_s == 0.1)
    assert deadline.description.endswith("limit: 0.1 s")
