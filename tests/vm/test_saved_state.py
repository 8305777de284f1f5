"""Guests are kept as a failure left them, and no process with them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from tests.vm.project import Project, make_project

pytestmark = [pytest.mark.slow, pytest.mark.any_cell]

FAILING = """\
def test_fails(vm):
    vm.modprobe("dummy")
    vm.write("/file", "as the test left it")
    assert vm.read("/file") == "something else"
"""
BOOTED = """\
def test_fails(boot_vm):
    vm = boot_vm()
    vm.write("/file", "as the test left it")
    assert vm.read("/file") == "something else"
"""
GOES_ON = """\
import pytest

@pytest.fixture
def guest(vm):
    vm.write("/file", "as the test left it")
    yield vm
    assert vm.read("/file") == "as the test left it"
    vm.power_off()

def test_fails(guest):
    assert False
"""
PANICKING = """\
def test_panics(vm):
    vm.write("/proc/sysrq-trigger", "c")
"""
EXPECTED_PANIC = """\
import pytest
from pytest_kernelvm.errors import GuestPanic

def test_panic(vm):
    with pytest.raises(GuestPanic):
        vm.write("/proc/sysrq-trigger", "c")
    assert vm.wait_end(5) == 0

def test_power_off(vm):
    vm.power_off()
"""
HANGING = """\
def test_hangs(cell, boot_vm):
    sleeper = cell.compile_program("int main(void) { for (;;) sleep(1000); }")
    boot_vm(files={"/sleeper": sleeper}, cmdline="rdinit=/sleeper", boot_timeout_s=4.0)
"""


def qemus(project: Project) -> list[str]:
    """Return the command lines of the project's QEMUs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            if text.startswith("qemu-system") and str(project.directory) in text:
                found.append(text)
    return found


def kept(project: Project) -> str:
    """Run the project's tests, which must leave one guest; return its name."""
    failed = project.pytest("--kernelvm-keep=failed")
    assert failed.status == 1, failed.stdout + failed.stderr
    [name] = project.left()
    assert f"attach:     kernelvm --store {project.store} attach {name}" in failed.stdout
    assert qemus(project) == []
    return name


@pytest.mark.parametrize("tests", [FAILING, BOOTED, GOES_ON], ids=["restored", "booted", "goes-on"])
def test_attaching_several_times(cell: Cell, tmp_path: Path, tests: str) -> None:
    project = make_project(tmp_path, cell, tests)
    name = kept(project)
    for _time in range(2):
        seen = project.kernelvm("attach", name, stdin="cat /file\nrm /file\nls\nexit\n")
        assert seen.status == 0, seen.stdout + seen.stderr
        assert "\nas the test left it\n" in seen.stdout
        assert "Run /init as init process" in seen.stdout
    assert qemus(project) == []


def test_a_saved_guest_is_exported(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    file = tmp_path / "kept.tar.gz"
    project.kernelvm("export", kept(project), str(file))
    seen = project.kernelvm("attach", str(file), store=tmp_path / "other", stdin="lsmod\n")
    assert "dummy " in seen.stdout


def test_a_panicked_guest(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, PANICKING)
    asked = "monitor info status\nmonitor info registers\ncat /proc/version\nexit\n"
    seen = project.kernelvm("attach", kept(project), stdin=asked)
    assert seen.status == 0, seen.stdout + seen.stderr
    assert "sysrq triggered crash" in seen.stdout
    assert "VM status: paused (shutdown)" in seen.stdout
    assert "panic: " in seen.stdout
    assert qemus(project) == []


def test_a_guest_that_never_got_ready(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, HANGING)
    seen = project.kernelvm("attach", kept(project), "--paused", stdin="monitor info status\n")
    assert "Run /sleeper as init process" in seen.stdout
    assert "VM status: paused" in seen.stdout


def test_a_guest_whose_end_was_expected_is_not_saved(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, EXPECTED_PANIC)
    passed = project.pytest("--kernelvm-keep=failed")
    assert passed.status == 0, passed.stdout
    assert project.left() == []


def test_a_guest_that_has_ended_cannot_be_saved(cell: Cell, tmp_path: Path) -> None:
    tests = "def test_dies(vm):\n    vm.kill()\n    vm.read('/proc/version')\n"
    project = make_project(tmp_path, cell, tests)
    failed = project.pytest("--kernelvm-keep=failed")
    assert "not saved:  QEMU has ended" in failed.stdout
    [name] = project.left()
    refused = project.kernelvm("attach", name)
    assert refused.status == 2
    assert "has no saved state: QEMU has ended" in refused.stderr
    assert "kernelvm replay" in refused.stderr


def test_without_the_option_no_state_is_saved(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    assert "attach:" not in project.pytest().stdout
    [name] = project.left()
    refused = project.kernelvm("attach", name)
    assert refused.status == 2
    assert "this run keeps no guests" in refused.stderr
