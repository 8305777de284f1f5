"""Debian's packages of other machines and suites, for tests: through an apt of their own."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_kernelvm.kernel.store import default_store
from pytest_kernelvm.process import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
TRIES = 3


class Unreachable(Exception):
    """A package cannot be had here; says why."""


def place() -> Path:
    """Return where packages are kept from one run to the next."""
    return default_store() / "debian-packages"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other workers out of a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Apt:
    """An apt for one suite and machine, that knows nothing of the host's and changes nothing."""

    def __init__(self, suite: str, arch: str) -> None:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and KEYRING.exists()):
            raise Unreachable("apt, dpkg or Debian's keyring is not installed")
        self.directory = place() / f"{suite}-{arch}"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        (self.directory / "sources.list").write_text(
            f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"
        )
        config = self.directory / "apt.conf"
        config.write_text(
            f'APT::Architecture "{arch}";\n'
            f'APT::Architectures {{ "{arch}"; }};\n'
            f'Dir::State "{self.directory}/state";\n'
            f'Dir::State::status "{self.directory}/status";\n'
            f'Dir::Cache "{self.directory}/cache";\n'
            f'Dir::Etc::sourcelist "{self.directory}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            'Acquire::Languages "none";\n'
            + ('APT::Sandbox::User "root";\n' if os.geteuid() == 0 else "")
        )
        self._env = {"APT_CONFIG": str(config)}

    def update(self) -> None:
        """Fetch the index, unless that of today is there."""
        stamp = self.directory / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < 24 * 3600:
            return
        for attempt in range(TRIES):
            done = run(
                ["apt-get", "update", "--quiet", "--error-on=any"],
                env=self._env,
                timeout_s=300,
                check=False,
            )
            if done.status == 0:
                stamp.touch()
                return
            if "mirror sync in progress" not in (done.stdout + done.stderr).lower():
                break
            time.sleep(5 * (attempt + 1))
        raise Unreachable(f"{MIRROR} is out of reach: {done.stderr.strip()[-200:]}")

    def depended_on(self, package: str) -> str:
        """Return what a meta-package stands for."""
        done = run(["apt-cache", "depends", package], env=self._env, timeout_s=60, check=False)
        found = re.search(r"Depends: (\S+)", done.stdout)
        if found is None:
            raise Unreachable(f"no package {package}")
        return found[1]

    def unpack(self, *packages: str) -> Path:
        """Return a directory with the content of some packages."""
        root = self.directory / "roots" / "+".join(packages)
        if not root.exists():
            fetched = self.directory / "fetched"
            fetched.mkdir(exist_ok=True)
            argv = ["apt-get", "download", "--quiet", *packages]
            done = run(argv, env=self._env, cwd=fetched, timeout_s=600, check=False)
            if done.status != 0:
                raise Unreachable(f"cannot fetch {packages}: {done.stderr.strip()[-200:]}")
            unfinished = self.directory / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            for file in fetched.glob("*.deb"):
                run(["dpkg-deb", "--extract", file, unfinished], timeout_s=300)
                file.unlink()
            root.parent.mkdir(exist_ok=True)
            unfinished.rename(root)
        return root


def unreachable_is_skipped(path: Path | str) -> Path:
    """Return a path, or skip the test with the reason why there is none."""
    if isinstance(path, str):
        pytest.skip(path)
    return path


@functools.cache
def module_root(suite: str, arch: str, package: str) -> Path | str:
    """Return the root of a kernel package's modules, depmod done, or why it cannot be had."""
    try:
        apt = Apt(suite, arch)
        with locked(apt.directory):
            apt.update()
            root = apt.unpack(apt.depended_on(package))
            shutil.rmtree(root / "boot", ignore_errors=True)
            for tree in (root / "lib" / "modules").iterdir():
                if not (tree / "modules.dep").exists():
                    run(["depmod", "-b", root, tree.name], timeout_s=300)
            return root
    except Unreachable as error:
        return str(error)


@functools.cache
def newer_modprobe() -> Path | str:
    """Return a modprobe of Debian 13 (kmod 34) that runs here, or why there is none."""
    try:
        arch = run(["dpkg", "--print-architecture"], timeout_s=30).stdout.strip()
        apt = Apt("trixie", arch)
        with locked(apt.directory):
            apt.update()
            libraries = ("libkmod2", "libc6", "libzstd1", "liblzma5", "libssl3t64", "zlib1g")
            root = apt.unpack("kmod", *libraries)
            loader = next(root.glob("usr/lib/*/ld-linux-*.so.*"))
            script = apt.directory / "modprobe"
            script.write_text(
                f"#!/bin/sh\nexec {loader} --argv0 modprobe --library-path {loader.parent} "
                f'{root}/usr/bin/kmod "$@"\n'
            )
            script.chmod(0o755)
            return script
    except (Unreachable, StopIteration) as error:
        return str(error) or "no loader of Debian 13"
