"""A scratch directory with canaries around it, and kernelvm run in it as its users run it.

QEMU is a script of our own that notes that it was started, and with what.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.cli.main import main
from pytest_kernelvm.process import Completed

# Far above what a refusal takes on a busy machine, far below what a FIFO waits.
TIMEOUT_S = 60.0
SCREEN_LINES = 24
QEMU = """#!/bin/sh
[ "$1" = --version ] && echo "QEMU emulator version 7.2" && exit 0
printf '%s\\n' "$*" >> {started}
exit 1
"""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """A place for one case. inside: where its input lies; outside: what it may not touch."""

    root: Path

    @property
    def inside(self) -> Path:
        return self.root / "inside"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def canary(self) -> Path:
        """A file with content that nobody may read into a guest, or change."""
        return self.outside / "canary"

    @property
    def started(self) -> list[str]:
        """The command lines of each QEMU that was started."""
        noted = self.root / "started"
        return noted.read_text().splitlines() if noted.exists() else []

    def kernelvm(self, *words: str | Path) -> Completed:
        """Give the command in a process of its own, in the directory of the input."""
        said, wrong = self.root / "said", self.root / "wrong"
        began = time.monotonic()
        # A new Python would read half a second of modules that are here already.
        child = os.fork()
        if child == 0:
            self._in_child([str(word) for word in words], said, wrong)
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() - began > TIMEOUT_S:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError(f"{words} did not end within {TIMEOUT_S:g} s")
            time.sleep(0.01)
        done = Completed(
            argv=tuple(str(word) for word in words),
            status=os.waitstatus_to_exitcode(ended[1]),
            raw_stdout=said.read_bytes(),
            stderr=wrong.read_text(errors="replace"),
            elapsed_s=time.monotonic() - began,
        )
        said.unlink()
        wrong.unlink()
        return done

    def _in_child(self, words: list[str], said: Path, wrong: Path) -> NoReturn:
        status = 70
        try:
            os.setsid()
            for number, file in ((1, said), (2, wrong)):
                os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            os.environ["PATH"] = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
            os.environ["HOME"] = str(self.outside)
            tempfile.tempdir = str(self.root / "tmp")
            os.chdir(self.inside)
            sys.argv = ["kernelvm", "--store", str(self.store), "--configs", "."]
            sys.argv += words
            try:
                status = main()
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 2
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)


def make_scratch(root: Path) -> Scratch:
    """Make an empty one."""
    scratch = Scratch(root=root)
    for name in ("inside", "outside", "bin", "tmp"):
        (root / name).mkdir()
    scratch.canary.write_text("canary\n")
    for arch in ARCHES.values():
        script = root / "bin" / arch.qemu_binary
        script.write_text(QEMU.format(started=root / "started"))
        script.chmod(0o755)
    return scratch


def listing(scratch: Scratch) -> dict[str, str]:
    """Return all that is in a scratch directory, but for what its store and QEMU may write."""
    found = {}
    for directory, names, files in os.walk(scratch.root):
        for name in [*names, *files]:
            path = Path(directory, name)
            relative = str(path.relative_to(scratch.root))
            status = path.lstat()
            if relative.split("/")[0] in ("store", "started"):
                continue
            content = ""
            if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[relative] = f"{status.st_mode:o} {content}"
    return found


def strange_files(directory: Path) -> list[Path]:
    """Return what is below a directory and neither file nor directory nor link."""
    return [
        path
        for path in directory.rglob("*")
        if not any(
            is_kind(path.lstat().st_mode) for is_kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
        )
    ]


def refused(scratch: Scratch, *words: str | Path, says: str, started: bool = False) -> Completed:
    """Give the command, which must refuse on one screen, quickly, and leave no trace.

    started: whether QEMU may be started.
    """
    before = listing(scratch)
    began = time.monotonic()
    done = scratch.kernelvm(*words)
    said = done.stdout + done.stderr
    assert time.monotonic() - began < TIMEOUT_S
    assert done.status == 2, said
    assert "bad-input: " in said
    assert says in said, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= SCREEN_LINES
    assert max(map(len, said.splitlines())) < 2000
    assert not [char for char in said if not (char.isprintable() or char == "\n")]
    assert listing(scratch) == before
    assert scratch.store.exists() is False or strange_files(scratch.store) == []
    if not started:
        assert scratch.started == []
    return done


# Bundles


def good_boot() -> Json:
    return {
        "arch": "aarch64",
        "machine": {"memory_mib": 128, "cpu": "cortex-a57", "fast_boot": True, "sandbox": True},
        "cmdline": "console=ttyAMA0",
        "fixed_initramfs": False,
        "shared_console": False,
        "network": "",
        "loaded": [],
        "root_address": 0,
        "root_words": "",
    }


def good_guest() -> Json:
    image = hashlib.sha256(b"image").hexdigest()
    return {
        "label": "aarch64-6.12",
        "boot": good_boot(),
        "files": {"image": image},
        "abi": {"syscalls": {"read": 63}, "errnos": {}, "open_flags": {}, "ioctls": {}},
        "limits": {"boot_s": 5.0, "command_s": 5.0},
        "by_hand": "kernelvm boot aarch64-6.12",
        "qemu": "QEMU emulator version 7.2",
        "argv": "qemu-system-aarch64",
        "kernel": "",
        "started_s": 0.0,
        "ready_s": 1.0,
        "snapshot": None,
        "left": None,
        "not_left": "this run keeps no guests",
    }


def good_about() -> Json:
    return {
        "format": 2,
        "test": "test_it.py::test_it",
        "verdict": "test-failed",
        "error": "test-failed: it is wrong",
        "at": "2026-01-02T03:04:05+00:00",
        "versions": {"pytest-kernelvm": "0.1.0", "python": "3.11", "host": "Linux"},
        "guests": ["guest-0"],
    }


def good_entry() -> Json:
    return {
        "at_s": 1.5,
        "what": "read /proc/version",
        "took_s": 0.1,
        "timeout_s": 5.0,
        "program": False,
        "steps": [{"call": "read", "args": [0, {"pointer": 0}, 8], "out": [1, None]}],
        "data": "",
        "space_bytes": 8,
        "results": [8],
        "outputs": ["linux 6\n"],
    }


@dataclass(kw_only=True)
class Draft:
    """A bundle before it is written, for cases to change."""

    about: Json
    guest: Json
    acts: list[Any]

    @property
    def boot(self) -> Json:
        """What is booted."""
        found: Json = self.guest["boot"]
        return found


def draft() -> Draft:
    """Return a bundle with nothing wrong."""
    return Draft(about=good_about(), guest=good_guest(), acts=[good_entry()])


def write_bundle(directory: Path, made: Draft) -> Path:
    """Write a bundle into a new directory; an act that is a text stands there as it is."""
    guest = directory / "guest-0"
    guest.mkdir(parents=True)
    (directory / "bundle.json").write_text(json.dumps(made.about))
    (guest / "guest.json").write_text(json.dumps(made.guest))
    (guest / "image").write_bytes(b"image")
    lines = (act if isinstance(act, str) else json.dumps(act) for act in made.acts)
    (guest / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return directory


Change = Callable[[Draft], object]
