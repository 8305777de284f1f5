"""`kernelvm boot`: a guest at a person's fingertips, and at a debugger's."""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.process import run
from tests.vm.project import KERNELVM, Project, make_project

pytestmark = pytest.mark.slow


@pytest.fixture
def project(cell: Cell, tmp_path: Path) -> Project:
    return make_project(tmp_path, cell, "")


def test_commands(project: Project) -> None:
    given = """\
help
mkdir /d
write /d/file some text
cat /d/file
ls /d
modprobe dummy
lsmod
rm /d/file
cat /d/file
nosuch
monitor info status
uname
mount
exit
"""
    said = project.kernelvm("boot", project.cell.config.id, stdin=given)
    assert said.status == 0, said.stdout + said.stderr
    for line in (
        "cat FILE…                    show files",
        "some text",
        "file",
        "open /d/file: No such file or directory",
        "nosuch: no such command or program; `help` lists the commands",
        "VM status: running",
        "proc /proc proc rw,relatime 0 0",
    ):
        assert line in said.stdout.splitlines()
    assert "Run /init as init process" in said.stdout
    assert f"{project.cell.config.id}: booted in " in said.stdout
    assert list((project.store / "logs").iterdir()) == []


def test_from_the_snapshot_that_tests_use(project: Project) -> None:
    for _time in range(2):
        said = project.kernelvm("boot", project.cell.config.id, "--from-snapshot", stdin="ls /\n")
        assert said.status == 0, said.stderr
        assert f"{project.cell.config.id}: restored in " in said.stdout
        assert said.stdout.count("Run /init as init process") == 1
    assert len(list((project.store / "snapshots").iterdir())) == 1


def test_at_a_terminal(project: Project) -> None:
    """The prompt comes again after what the console says, and the history after a restart."""
    prompt = f"{project.cell.config.id}> "
    for first in ("write /dev/kmsg <4>to the console", "\x1b[A\x1b[A"):
        child = booted(project, "--from-snapshot")
        child.expect_exact(prompt)
        child.sendline(first)
        child.expect(r"\] to the console")
        child.expect_exact(prompt)
        child.sendcontrol("c")
        child.expect("Ctrl-D ends the guest")
        child.expect_exact(prompt)
        child.sendline("cat /proc/vers\t")
        child.expect("Linux version")
        child.expect_exact(prompt)
        child.sendeof()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


def answered(stub: Path, packet: bytes) -> bytes:
    """Return what a gdb stub answers to one packet of the remote protocol."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(stub))
        checksum = sum(packet) & 0xFF
        client.sendall(b"+$" + packet + f"#{checksum:02x}".encode())
        got = b""
        while b"#" not in got:
            got += client.recv(4096)
        return got.partition(b"$")[2].partition(b"#")[0]


def booted(project: Project, *words: str) -> Any:
    """Return `kernelvm boot` at a terminal of its own."""
    argv = ["-c", KERNELVM, "--store", str(project.store)]
    argv += ["--configs", str(project.cell.config.file.parent)]
    argv += ["boot", project.cell.config.id, *words]
    child = pexpect.spawn(sys.executable, argv, encoding="utf-8", timeout=60)
    child.delaybeforesend = None
    return child


def gdb_words(child: Any) -> list[str]:
    """Return the command that it tells to connect with, word by word."""
    child.expect(r"(gdb-multiarch [^\r\n]*)\r")
    return shlex.split(child.match[1])


@pytest.mark.parametrize("waiting", [False, True])
def test_gdb(project: Project, waiting: bool) -> None:
    """A stub listens; with --wait the guest has not begun when it is first spoken with."""
    child = booted(project, "--gdb", *(["--wait"] if waiting else []))
    words = gdb_words(child)
    vmlinux = next(Path(word) for word in words if word.endswith("vmlinux"))
    assert vmlinux.read_bytes()[:4] == b"\x7fELF"
    stub = Path(words[-1].removeprefix("target remote "))
    assert len(str(stub)) < 107
    if not waiting:
        child.expect("booted in ")
    assert answered(stub, b"?").startswith(b"T")
    if waiting:
        assert child.expect(["Linux version", pexpect.TIMEOUT], timeout=1) == 1
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    child.close()
    assert not stub.parent.exists()


def test_gdb_itself(project: Project) -> None:
    """gdb finds the kernel's symbols where the guest stands at its first instruction."""
    if not shutil.which("gdb-multiarch"):
        pytest.skip("gdb-multiarch is not installed")
    child = booted(project, "--gdb", "--wait")
    asked = ["-ex", "hbreak start_kernel", "-ex", "continue", "-ex", "info symbol $pc"]
    done = run([*gdb_words(child), "-batch", *asked], timeout_s=120)
    assert "start_kernel in section" in done.stdout
    child.close(force=True)


def test_wait_requires_gdb(project: Project) -> None:
    refused = project.kernelvm("boot", project.cell.config.id, "--wait")
    assert refused.status == 2
    assert "--gdb --wait" in refused.stderr
