"""Tests that leave their guest clean may share it, and are held to their word."""

import pytest

from pytest_kernelvm import Cell

pytestmark = [pytest.mark.slow, pytest.mark.any_cell]

TESTS = """\
import pytest

pids = []

@pytest.mark.kernelvm(clean=True)
class TestClean:
    def test_one(self, vm):
        pids.append(vm.pid)
        vm.modprobe("dummy")
        vm.modprobe("-r", "dummy")

    def test_two(self, vm):
        pids.append(vm.pid)
        assert vm.read("/proc/version")

def test_not_clean(vm):
    pids.append(vm.pid)
    vm.modprobe("dummy")

@pytest.mark.kernelvm(clean=True)
class TestLater:
    def test_three(self, vm):
        pids.append(vm.pid)
        assert vm.modules == ()
        BODY

    def test_four(self, vm):
        pids.append(vm.pid)
        assert vm.modules == ()

def test_guests():
    one, two, other, three, four = pids
    assert one == two == three
    assert other != one
    assert (four == three) is CLEAN
"""

DIRTY = {
    "module": ('vm.modprobe("dummy")', "module left: dummy"),
    "file": ('vm.write("/left", "x")', "file left: left"),
    "mount": ('vm.syscall("mount", "x", "/root", "proc", 0, 0)', "mount left: x /root proc"),
    "log": ('vm.write("/dev/kmsg", "<3>something bad\\n")', "kernel's log: something bad"),
    "death": ("vm.kill()", "QEMU was killed by SIGKILL"),
}


def write(pytester: pytest.Pytester, body: str, clean: bool) -> None:
    text = TESTS.replace("BODY", body).replace("CLEAN", str(clean))
    pytester.makepyfile(text)


def options(cell: Cell) -> list[str]:
    return [
        "--kernelvm-fresh=share",
        f"--kernelvm-configs={cell.config.file.parent.absolute()}",
        f"--kernelvm-config={cell.config.id}",
        f"--kernelvm-store={cell.store.root}",
    ]


def test_clean_tests_share(pytester: pytest.Pytester, cell: Cell) -> None:
    write(pytester, "pass", clean=True)
    result = pytester.runpytest_subprocess(*options(cell))
    result.assert_outcomes(passed=6)


@pytest.mark.parametrize("what", DIRTY)
def test_a_test_that_is_not_clean_fails(pytester: pytest.Pytester, cell: Cell, what: str) -> None:
    body, told = DIRTY[what]
    write(pytester, body, clean=False)
    result = pytester.runpytest_subprocess(*options(cell))
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines([f"*{told}*"])


def test_after_a_failure_the_guest_is_not_passed_on(pytester: pytest.Pytester, cell: Cell) -> None:
    write(pytester, "vm.modprobe('dummy'); assert False", clean=False)
    result = pytester.runpytest_subprocess(*options(cell))
    result.assert_outcomes(passed=5, failed=1)
