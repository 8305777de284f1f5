"""Child processes: what they say, how long they may, and that none of them is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.errors import HarnessError, ToolMissing
from pytest_kernelvm.process import Deadline, environment, quoted, run, spawn, status_words, tail

SHOW_ARGUMENTS = "import sys; print(sys.argv[1:])"


def runs(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = Deadline(60)
    while not condition():
        assert not deadline.passed, f"never: {what}"
        time.sleep(0.01)


def wait_until_gone(pid: int) -> None:
    wait_until(lambda: not runs(pid), f"the end of process {pid}")


def shell(script: str, *arguments: str | Path) -> list[str | Path]:
    return ["sh", "-c", script, "sh", *arguments]


# run


def test_status_and_outputs() -> None:
    done = run(shell("printf 'out\\377'; echo err >&2; exit 3"), timeout_s=60, check=False)
    assert (done.status, done.raw_stdout, done.stderr) == (3, b"out\xff", "err\n")
    assert done.stdout == "out\ufffd"
    assert done.argv[:2] == ("sh", "-c")


def test_a_failure_is_an_error_with_its_last_words_and_its_command() -> None:
    argv = shell("seq 100 >&2; exit 3", "a b")
    with pytest.raises(HarnessError) as failed:
        run(argv, timeout_s=60)
    evidence = failed.value.evidence
    assert failed.value.summary == "sh ended with status 3"
    assert evidence.excerpt.splitlines() == [str(number) for number in range(71, 101)]
    assert evidence.command == quoted(argv)


def test_a_failure_without_errors_shows_the_output() -> None:
    with pytest.raises(HarnessError) as failed:
        run(shell("echo why; exit 1"), timeout_s=60)
    assert failed.value.evidence.excerpt == "why"


def test_a_signal_is_named() -> None:
    done = run(shell("kill -SEGV $$"), timeout_s=60, check=False)
    assert done.status == -signal.SIGSEGV
    assert status_words(done.status) == "was killed by SIGSEGV"
    assert status_words(-99) == "was killed by signal 99"


@pytest.mark.parametrize("data", [b"one\ntwo\0", b"x" * 300_000])
def test_stdin(data: bytes) -> None:
    assert run(["cat"], stdin=data, timeout_s=60).raw_stdout == data


def test_without_stdin_there_is_nothing_to_read() -> None:
    assert run(["cat"], timeout_s=60).raw_stdout == b""


def test_working_directory_and_variables(tmp_path: Path) -> None:
    done = run(shell('pwd; echo "$GIVEN"'), cwd=tmp_path, env={"GIVEN": "a b"}, timeout_s=60)
    assert done.stdout == f"{tmp_path}\na b\n"


def test_makes_variables_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CDPATH", "KCONFIG_ALLCONFIG"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "kept")
    lines = run(["env"], timeout_s=60).stdout.splitlines()
    assert not [line for line in lines if line.startswith(("MAKE", "MFLAGS", "CDPATH"))]
    assert {"LC_ALL=C", "KEPT=kept"} <= set(lines)
    assert environment({"LC_ALL": "C.UTF-8"})["LC_ALL"] == "C.UTF-8"


def test_a_missing_program_is_told_with_advice() -> None:
    with pytest.raises(ToolMissing) as missing:
        run(["no-such-program", "-x"], timeout_s=60)
    assert "no-such-program" in missing.value.summary
    assert "kernelvm doctor" in missing.value.evidence.next_step


def test_a_quoted_command_can_be_pasted() -> None:
    words = ["a b", "it's", '"$HOME"', "", "new\nline", "*", "\\", "-x=1"]
    argv = [sys.executable, "-c", SHOW_ARGUMENTS, *words]
    pasted = run(["sh", "-c", quoted(argv)], timeout_s=60)
    assert pasted.stdout == f"{words}\n"


def test_a_log_gets_both_streams_and_each_line_is_passed_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("from before\n")
    lines: list[str] = []
    done = run(
        shell("echo one; echo two >&2; printf '\\n\\377unfinished'"),
        log=log,
        on_line=lines.append,
        timeout_s=60,
    )
    assert (done.status, done.raw_stdout, done.stderr) == (0, b"", "")
    assert log.read_bytes() == b"from before\none\ntwo\n\n\xffunfinished"
    assert lines == ["one", "two", "", "\ufffdunfinished"]


def test_a_failure_with_a_log_quotes_and_names_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(HarnessError) as failed:
        run(shell("echo why; exit 1"), log=log, timeout_s=60)
    assert failed.value.evidence.excerpt == "why"
    assert failed.value.evidence.where == (str(log),)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sleep 1000 & echo $! >$1; wait", id="child-waits"),
        pytest.param("sleep 1000 & echo $! >$1", id="child-ended"),
        pytest.param("(trap '' TERM; sleep 1000) & echo $! >$1; wait", id="grandchild-is-deaf"),
    ],
)
def test_a_timeout_leaves_no_grandchild(script: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    # A loaded machine may not even get to write the note within the first of these.
    for timeout_s in (0.3, 2.0, 20.0):
        with pytest.raises(HarnessError, match=f"sh did not end within {timeout_s:g} s") as late:
            run(shell(script, note), timeout_s=timeout_s)
        assert late.value.evidence.command == quoted(shell(script, note))
        if note.is_file() and note.read_text().strip():
            break
    wait_until_gone(int(note.read_text()))


def test_a_timeout_bounds_a_child_that_never_pauses() -> None:
    with pytest.raises(HarnessError, match=r"yes did not end within 0\.2 s"):
        run(["yes"], log=Path("/dev/null"), timeout_s=0.2)


def test_a_timeout_with_a_log_shows_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(100)))
    with pytest.raises(HarnessError) as late:
        run(["sleep", "1000"], log=log, timeout_s=0.1)
    assert late.value.evidence.excerpt.splitlines()[-1] == "99"
    assert late.value.evidence.where == (str(log),)


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.extend(int(pid) for pid in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            shell("sleep 1000 & echo $$ $!; wait"),
            log=tmp_path / "log",
            on_line=interrupt,
            timeout_s=60,
        )
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)


# spawn


def test_a_spawned_child_runs_beside_us_until_it_is_left(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with spawn(shell("echo out; echo err >&2; exec sleep 1000"), output=output) as child:
        wait_until(lambda: output.read_text() == "out\nerr\n", "the child's output")
        assert child.poll() is None
        assert child.wait(0.01) is None
        assert runs(child.pid)
    assert child.poll() == -signal.SIGKILL
    assert not runs(child.pid)


def test_a_spawned_child_that_ends_by_itself_keeps_its_status(tmp_path: Path) -> None:
    with spawn(shell("exit 5"), output=tmp_path / "output") as child:
        assert child.wait(60) == 5
    assert child.poll() == 5
    assert child.kill() == 5
    assert child.argv[:2] == ("sh", "-c")


def test_a_spawned_child_dies_when_the_test_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        spawn(["sleep", "1000"], output=tmp_path / "output") as child,
    ):
        raise ZeroDivisionError
    assert child.poll() == -signal.SIGKILL


def test_a_spawned_child_inherits_the_given_descriptors_alone(tmp_path: Path) -> None:
    output = tmp_path / "output"
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    try:
        script = f"echo given >/dev/fd/{theirs}; test -e /dev/fd/{ours} || echo alone"
        with spawn(shell(script), pass_fds=[theirs], output=output) as child:
            assert child.wait(60) == 0
        assert output.read_text() == "alone\n"
        assert os.read(ours, 100) == b"given\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_missing_program_is_not_spawned(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing), spawn(["no-such-program"], output=tmp_path / "output"):
        pass


PARENT = """
import sys
from pathlib import Path
from pytest_kernelvm.process import run, spawn
directory = Path(sys.argv[1])
with spawn(["sleep", "1000"], output=directory / "spawned.output") as child:
    (directory / "spawned").write_text(f"{child.pid}\\n")
    run(["sh", "-c", "echo $$ >$0; exec sleep 1000", directory / "ran"], timeout_s=1000)
"""


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    notes = [tmp_path / "spawned", tmp_path / "ran"]
    output = tmp_path / "output"
    with spawn([sys.executable, "-c", PARENT, tmp_path], output=output) as parent:

        def both_run() -> bool:
            assert parent.poll() is None, output.read_text()
            return all(note.is_file() and note.read_text().endswith("\n") for note in notes)

        wait_until(both_run, "both children")
        pids = [int(note.read_text()) for note in notes]
        assert all(runs(pid) for pid in pids)
        assert parent.kill() == -signal.SIGKILL
    for pid in pids:
        wait_until_gone(pid)


# The rest


def test_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"".join(b"%d \xff\n" % number for number in range(1000)))
    assert tail(log, 2) == "998 \ufffd\n999 \ufffd"
    assert len(tail(log).splitlines()) == 30


def test_deadlines() -> None:
    past, future = Deadline(0), Deadline(1000)
    assert past.passed
    assert past.remaining_s == 0
    assert not future.passed
    assert 0 < future.remaining_s <= 1000
