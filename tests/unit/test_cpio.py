"""The archive writer, against GNU cpio where it is installed, and against itself."""

import shutil
from pathlib import Path

import pytest

from pytest_kernelvm.guest import cpio
from pytest_kernelvm.process import run

ENTRIES = (
    cpio.file("init", b"#!x", 0o755),
    cpio.link("sbin/insmod", "modprobe"),
    cpio.file("sbin/modprobe", bytes(range(256)), 0o755),
    cpio.file("lib/empty", b""),
)


def test_entries_come_back_with_their_parents() -> None:
    entries = list(cpio.entries_of(cpio.archive(ENTRIES)))
    assert [entry.path for entry in entries] == [
        "init",
        "lib",
        "lib/empty",
        "sbin",
        "sbin/insmod",
        "sbin/modprobe",
    ]
    assert {entry.path: entry.content for entry in entries}["sbin/modprobe"] == bytes(range(256))


def test_order_of_entries_does_not_matter() -> None:
    assert cpio.archive(ENTRIES) == cpio.archive(reversed(ENTRIES))


def test_what_is_no_archive() -> None:
    with pytest.raises(ValueError, match="no newc record at byte 0"):
        list(cpio.entries_of(b"nonsense"))


@pytest.mark.skipif(not shutil.which("cpio"), reason="GNU cpio is not installed")
def test_gnu_cpio_reads_it(tmp_path: Path) -> None:
    done = run(
        ["cpio", "--extract", "--make-directories", "--quiet"],
        cwd=tmp_path,
        stdin=cpio.archive(ENTRIES),
        timeout_s=20,
    )
    assert done.stderr == ""
    assert (tmp_path / "sbin/insmod").readlink() == Path("modprobe")
    assert (tmp_path / "sbin/modprobe").read_bytes() == bytes(range(256))
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
