"""What a damaged, full or read-only store does to guests: its own fault is never the kernel's."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.process import Deadline, run, spawn
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.store.intact import DamagedStore
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.qemu.snapshot import CONSOLE, LOG, MEMORY, STATE, find_snapshot
from tests.unit.test_source import RecordedProgress
from tests.unit.test_store import disk_of
from tests.vm.project import KERNELVM

MODULE = "dummy"
# Root without the right to write everywhere.
AS_A_USER = (
    *("setpriv", "--bounding-set=-dac_override,-dac_read_search"),
    "--inh-caps=-dac_override,-dac_read_search",
)
TESTS = """
import pytest

@pytest.mark.kernelvm(modules=["dummy"])
def test_it(vm):
    vm.modprobe("dummy")
"""


def flip(path: Path) -> None:
    """Change 16 bytes in the middle of a file, as a disk would: its times stay."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        old = file.read(16)
        file.seek(status.st_size // 2)
        file.write(bytes(byte ^ 0xFF for byte in old))
    path.chmod(stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def private(cell: Cell, tmp_path: Path) -> Store:
    """A store with a copy of the cell's kernel and programs."""
    root = tmp_path / "store"
    root.mkdir()
    entry, programs = cell.kernel.directory, cell.programs.agent.parent
    for path in (entry, cell.kernel.devel, programs):
        (root / path.parent.name).mkdir(exist_ok=True)
        run(["cp", "-a", "--reflink=auto", path, root / path.parent.name], timeout_s=300)
    for kind in ("requests", "paces", "compilers"):
        if (cell.store.root / kind).is_dir():
            shutil.copytree(cell.store.root / kind, root / kind, dirs_exist_ok=True)
    return Store(root, RecordedProgress())


@pytest.fixture
def own(cell: Cell, private: Store) -> Cell:
    return Cell(cell.config, private)


@pytest.fixture
def guests(private: Store, tmp_path: Path) -> Guests:
    return guests_in(private, tmp_path)


def guests_in(store: Store, directory: Path) -> Guests:
    numbers = iter(range(100))

    def new_directory() -> Path:
        made = directory / f"guest-{next(numbers)}"
        made.mkdir()
        return made

    return Guests(store, new_directory)


def module_file(own: Cell) -> Path:
    return own.closure([MODULE]).modules[0].path


def have_a_guest(own: Cell, guests: Guests, fresh: str) -> None:
    bootable = own.bootable(modules=[MODULE])
    assert own.kernel.config
    with (guests.booted if fresh == "boot" else guests.restored)(bootable):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("fresh", ["restore", "boot"])
@pytest.mark.parametrize("what", ["image", "module", "modules.dep", "agent", "config"])
def test_a_changed_file_is_not_blamed_on_the_kernel(
    what: str, fresh: str, own: Cell, guests: Guests
) -> None:
    path = {
        "image": own.kernel.image,
        "module": module_file(own),
        "modules.dep": own.kernel.module_tree / "modules.dep",
        "agent": own.programs.agent,
        "config": own.kernel.directory / "config",
    }[what]
    flip(path)
    again = Cell(own.config, own.store)
    with pytest.raises(DamagedStore) as raised:
        have_a_guest(again, guests, fresh)
    assert path.name in raised.value.summary
    assert raised.value.evidence.where == (str(path),)
    assert raised.value.evidence.expected != raised.value.evidence.seen
    assert guests.counts.booted == guests.counts.restored == guests.counts.snapshots_made == 0


@pytest.mark.slow
def test_a_file_that_changes_meanwhile(own: Cell, guests: Guests) -> None:
    """The second guest of the same process is not made of it."""
    bootable = own.bootable(modules=[MODULE])
    for _guest in range(2):
        with guests.restored(bootable) as vm:
            assert vm.read("/proc/version")
    flip(own.kernel.image)
    os.utime(own.kernel.image)
    with pytest.raises(DamagedStore), guests.restored(bootable):
        pass
    with pytest.raises(DamagedStore), guests.booted(bootable):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", [MEMORY, STATE, CONSOLE, LOG])
def test_a_changed_snapshot_is_reported_and_made_anew(
    name: str, own: Cell, guests: Guests, private: Store
) -> None:
    bootable = own.bootable(modules=[MODULE])
    with guests.restored(bootable):
        pass
    found = find_snapshot(private, bootable.boot)
    assert found
    flip(found.directory / name)
    os.utime(found.directory / name)
    with guests.restored(bootable) as vm:
        assert vm.read("/proc/version")
    assert guests.counts.snapshots_made == 2
    assert isinstance(private.progress, RecordedProgress)
    assert any(f"is damaged ({name}: other bytes" in line for line in private.progress.lines)


@pytest.mark.slow
@pytest.mark.parametrize("mib", [20, 132, 134])
def test_a_disk_that_fills_while_a_snapshot_is_made(mib: int, cell: Cell, tmp_path: Path) -> None:
    """Before QEMU has its memory, while it writes, and while we copy; never a SIGBUS."""
    bootable = cell.bootable(modules=[MODULE])
    boot = replace(bootable.boot, machine=replace(bootable.boot.machine, memory_mib=128))
    with disk_of(f"{mib}m", tmp_path) as disk:
        store = Store(disk / "store", RecordedProgress())
        guest = guests_in(store, tmp_path).restored(replace(bootable, boot=boot))
        with pytest.raises(HarnessError, match="the disk of the store is full") as raised, guest:
            pass
        assert raised.value.evidence.where == (str(store.root),)
        assert "make room" in raised.value.evidence.next_step
        assert not [*store.root.glob("tmp/*"), *store.root.glob("snapshots/*")]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop a capability")
@pytest.mark.parametrize("has", ["snapshots", "no snapshots"])
def test_a_read_only_store(has: str, own: Cell, tmp_path: Path, private: Store) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    argv += [f"--kernelvm-configs={own.config.file.parent}", f"--basetemp={tmp_path / 'base'}"]
    argv += [f"--kernelvm-config={own.config.id}", f"--kernelvm-store={private.root}", "test_it.py"]
    if has == "snapshots":
        done = run(argv, cwd=tmp_path, timeout_s=240, check=False)
        assert done.status == 0, done.stdout
    run(["chmod", "-R", "a-w", private.root], timeout_s=60)
    try:
        done = run([*AS_A_USER, *argv], cwd=tmp_path, timeout_s=240, check=False)
    finally:
        run(["chmod", "-R", "u+w", private.root], timeout_s=60)
    assert done.status == 1, done.stdout + done.stderr
    assert "bad-input: " in done.stdout
    assert "not writable" in done.stdout
    assert f"where: {private.root}" in done.stdout
    assert "KERNELVM_STORE" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "asyncio" not in done.stdout + done.stderr
    assert "contextlib" not in done.stdout


@pytest.mark.slow
def test_clean_leaves_what_a_run_uses(own: Cell, tmp_path: Path, private: Store) -> None:
    (tmp_path / "test_it.py").write_text(
        TESTS + "\n\n@pytest.mark.parametrize('n', range(3))\n"
        "def test_more(vm, n, tmp_path_factory):\n"
        "    import pathlib, time\n"
        f"    pathlib.Path({str(tmp_path)!r}, f'at-{{n}}').touch()\n"
        f"    while not pathlib.Path({str(tmp_path)!r}, 'go').exists(): time.sleep(0.05)\n"
        "    assert vm.read('/proc/version')\n"
    )
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    argv += [f"--kernelvm-configs={own.config.file.parent}", f"--basetemp={tmp_path / 'base'}"]
    argv += [
        f"--kernelvm-config={own.config.id}",
        f"--kernelvm-store={private.root}",
        str(tmp_path / "test_it.py"),
    ]
    clean = [sys.executable, "-c", KERNELVM, "--store", str(private.root)]
    clean += ["--configs", str(own.config.file.parent), "clean"]
    with spawn(argv, output=tmp_path / "log") as child:
        deadline = Deadline(200)
        while not (tmp_path / "at-0").exists() and child.poll() is None and not deadline.passed:
            time.sleep(0.05)
        assert child.poll() is None, (tmp_path / "log").read_text()
        for words in ([], [own.config.id]):
            done = run([*clean, *words], timeout_s=120)
            assert "in use" in done.stdout
        assert own.kernel.image.is_file()
        (tmp_path / "go").touch()
        status = child.wait(240)
    assert status == 0, (tmp_path / "log").read_text()
