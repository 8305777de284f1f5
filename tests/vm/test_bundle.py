"""A failed test leaves a bundle, and with it the same happens again, on other machines too."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from tests.vm.project import Project, make_project

pytestmark = [pytest.mark.slow, pytest.mark.any_cell]

FAILING = """\
def test_fails(vm):
    vm.modprobe("dummy")
    vm.write("/file", bytes(range(256)))
    assert vm.run("nosuch").errno
    vm.console.write("typed")
    vm.qmp.execute("query-status")
    assert vm.read_bytes("/file") == b"something else"
"""
PANICKING = """\
def test_panics(vm):
    vm.write("/file", "before")
    vm.write("/proc/sysrq-trigger", "c")
"""
NEVER_READY = """\
import pytest

def test_never_ready(boot_vm):
    boot_vm(cmdline="rdinit=/nosuch init=/nosuch")
"""
EXPECTED_AND_GONE_ON = """\
import pytest
from pytest_kernelvm.errors import CommandFailed, SyscallFailed

def test_goes_on(vm):
    with pytest.raises(SyscallFailed):
        vm.read("/nosuch")
    with pytest.raises(CommandFailed):
        vm.modprobe("nosuch")
    vm.power_off()
    assert False, "the test is not satisfied"
"""


def same_again(project: Project, named: str, store: Path | None = None) -> None:
    again = project.kernelvm("replay", named, store=store)
    assert again.status == 0, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1].startswith("as before: ")
    assert "differ" not in again.stdout


def test_the_same_commands_get_the_same_replies(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    failed = project.pytest()
    assert failed.status == 1
    [name] = project.left()
    assert f"replay it:  kernelvm --store {project.store} replay {name}" in failed.stdout
    same_again(project, name)
    again = project.kernelvm("replay", name, "--boot", "--fast", "--console")
    assert again.status == 0, again.stdout + again.stderr
    assert f"{cell.config.id}: booted in " in again.stdout
    assert f"{cell.config.id} | " in again.stdout
    assert "modprobe dummy" in again.stdout
    assert "QMP query-status" in again.stdout
    assert "typed 'typed'" in again.stdout


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.zst"])
def test_on_another_machine(cell: Cell, tmp_path: Path, ending: str) -> None:
    """Another store, another directory, and nothing left of the first ones."""
    project = make_project(tmp_path, cell, FAILING)
    project.pytest()
    [name] = project.left()
    file = tmp_path / f"failure{ending}"
    exported = project.kernelvm("export", name, str(file))
    assert exported.status == 0, exported.stderr
    shutil.rmtree(project.store)
    other = tmp_path / "other"
    other.mkdir()
    moved = file.rename(other / file.name)
    same_again(project, str(moved), store=tmp_path / "other-store")


def test_a_bundle_has_its_files(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    project.pytest("--junit-xml=junit.xml")
    [name] = project.left()
    bundle = project.store / "failures" / name
    about = json.loads((bundle / "bundle.json").read_text())
    assert about["test"] == f"test_it.py::test_fails[{cell.config.id}]"
    assert about["verdict"] == "test-failed"
    assert set(about["versions"]) == {"pytest-kernelvm", "python", "host"}
    guest = bundle / "guest-0"
    noted = json.loads((guest / "guest.json").read_text())
    assert noted["qemu"].startswith("QEMU emulator version")
    assert noted["argv"].startswith(cell.config.arch.qemu_binary)
    acts = [json.loads(line) for line in (guest / "journal.jsonl").read_text().splitlines()]
    kinds = [next(key for key in ("what", "typed", "qmp") if key in act) for act in acts]
    assert kinds.count("typed") == kinds.count("qmp") == 1
    lines = (guest / "console.txt").read_text().splitlines()
    banner = next(line for line in lines if "Linux version" in line)
    host_s, guest_s = banner.split()[0], banner.split("[")[1].split("]")[0]
    assert float(guest_s) == 0.0
    assert float(host_s) < 0, "it was said when the snapshot was made"


def test_writing_a_bundle_takes_little_time_and_space(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    project.pytest()
    [name] = project.left()
    own = [
        path.stat().st_blocks * 512
        for path in (project.store / "failures" / name).rglob("*")
        if path.is_file() and path.stat().st_nlink == 1
    ]
    assert sum(own) < 300_000


@pytest.mark.parametrize(
    ("tests", "verdict"), [(PANICKING, "panic"), (NEVER_READY, "panic")], ids=["panic", "boot"]
)
def test_a_replay_repeats_the_guests_end(
    cell: Cell, tmp_path: Path, tests: str, verdict: str
) -> None:
    project = make_project(tmp_path, cell, tests)
    assert project.pytest().status == 1
    [name] = project.left()
    again = project.kernelvm("replay", name)
    assert again.status == 0, again.stdout + again.stderr
    assert f"\n{verdict}: {cell.config.id}: " in again.stdout
    assert "as before: " in again.stdout.splitlines()[-1]


def test_expected_failures_are_replayed_too(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, EXPECTED_AND_GONE_ON)
    assert "the test is not satisfied" in project.pytest().stdout
    [name] = project.left()
    same_again(project, name)


def test_a_replay_shows_what_differs(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    project.pytest()
    [name] = project.left()
    journal = project.store / "failures" / name / "guest-0" / "journal.jsonl"
    acts = [json.loads(line) for line in journal.read_text().splitlines()]
    written = next(act for act in acts if act.get("what") == "write /file")
    written["results"][0] = -13
    journal.write_text("".join(f"{json.dumps(act)}\n" for act in acts))
    again = project.kernelvm("replay", name, "--fast")
    assert again.status == 1
    assert "before: -13" in again.stdout
    assert "1 commands end differently" in again.stdout


def test_damaged_archives_are_refused(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING)
    project.pytest()
    [name] = project.left()
    file = tmp_path / "failure.tar.gz"
    project.kernelvm("export", name, str(file))
    unpacked = tmp_path / "unpacked"
    with tarfile.open(file) as archive:
        archive.extractall(unpacked, filter="data")
    (unpacked / "guest-0" / "image").chmod(0o644)
    with (unpacked / "guest-0" / "image").open("r+b") as image:
        image.seek(4096)
        image.write(b"damage")
    again = project.kernelvm("replay", str(unpacked))
    assert again.status == 2
    assert "the bundle's image has changed since" in again.stderr
    (unpacked / "guest-0" / "image").unlink()
    shutil.rmtree(project.store)
    again = project.kernelvm("replay", str(unpacked), store=tmp_path / "other")
    assert again.status == 2
    assert "the bundle's image is gone" in again.stderr
    assert "Traceback" not in again.stderr


def test_bundles_are_listed_and_removed(cell: Cell, tmp_path: Path) -> None:
    project = make_project(tmp_path, cell, FAILING + PANICKING)
    told = project.pytest("-q", "-q").stdout
    names = project.left()
    assert len(names) == 2
    assert "kernelvm kept" not in told
    assert project.kernelvm("kept", "--end", names[0]).status == 0
    assert project.left() == names[1:]
    refused = project.kernelvm("kept", "--end", names[0])
    assert refused.status == 2
    assert "did you mean" in refused.stderr
    assert project.kernelvm("kept", "--end").status == 0
    assert project.left() == []


def test_two_guests_with_a_cable(cell: Cell, tmp_path: Path) -> None:
    tests = """\
def test_pings(vms):
    a, b = vms("a", "b")
    assert a.network.ping(b.network.address) < 0
"""
    project = make_project(tmp_path, cell, tests)
    failed = project.pytest()
    [name] = project.left()
    for guest in ("a", "b"):
        assert f"guest {cell.config.id}-{guest} " in failed.stdout
    assert failed.stdout.count("packets:    ") == 2
    again = project.kernelvm("replay", name, "--fast")
    assert again.status == 0, again.stdout + again.stderr
    assert f"{cell.config.id}-a: ping 10.0.0.2" in again.stdout
    assert f"{cell.config.id}-b: address 10.0.0.2/24" in again.stdout
