"""Looking for programs, headers and packages on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.process import ADMIN_DIRECTORIES, run

# These may be in directories that are only in the administrator's PATH.
_ADMIN_PROGRAMS = ("depmod", "mkfs.jffs2", "mke2fs")
_VERSION_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """Where something was found, and its version.

    Attributes:
        path: Where it is; None if it is missing.
        version: Its version; None if it is missing or prints none.
    """

    path: Path | None = None
    version: str | None = None


def probe_program(name: str, version_flags: tuple[str, ...]) -> ProbeResult:
    """Look for a program in PATH, and have it print its version.

    Args:
        name: The program's name.
        version_flags: The arguments with which it prints its version; empty not to run it.

    Returns:
        Its path, and the first number in its output that looks like a version.
    """
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *ADMIN_DIRECTORIES])
    path = shutil.which(name, path=places if name in _ADMIN_PROGRAMS else None)
    if path is None:
        return ProbeResult()
    version = _version_in(_output([path, *version_flags])) if version_flags else None
    return ProbeResult(path=Path(path), version=version)


def probe_header(name: str) -> ProbeResult:
    """Look for a header where the compiler does, or below /usr/include without a compiler.

    Args:
        name: As in `#include`, such as `sys/types.h`.

    Returns:
        The path of the first one, without a version.
    """
    gcc = shutil.which("gcc")
    text = _output([gcc, "-M", "-x", "c", "-"], f"#include <{name}>\n") if gcc else ""
    found = [word for word in text.split() if word.endswith(f"/{name}")]
    if not gcc:
        root = Path("/usr/include")
        found = [str(path) for path in (root / name, *root.glob(f"*/{name}")) if path.exists()]
    return ProbeResult(path=Path(found[0])) if found else ProbeResult()


def probe_debian_source(package: str, directory: Path) -> ProbeResult:
    """Look for the tarball of a Debian source package.

    Args:
        package: The package's name, such as `linux-source-6.12`.
        directory: Where such packages put their tarballs.

    Returns:
        The tarball's path, and the version without Debian's part of it.
    """
    tarball = next(iter(sorted(directory.glob(f"{package}.tar.*"))), None)
    query = shutil.which("dpkg-query")
    if tarball is None or query is None:
        return ProbeResult(path=tarball)
    said = _output([query, "--show", "--showformat=${Version}", package])
    return ProbeResult(path=tarball, version=_version_in(said))


def probe_file(path: Path) -> ProbeResult:
    """Look for a file."""
    return ProbeResult(path=path if path.exists() else None)


def probe_ensurepip() -> ProbeResult:
    """Look for the module that makes virtual environments."""
    spec = importlib.util.find_spec("ensurepip")
    return ProbeResult(path=Path(spec.origin)) if spec and spec.origin else ProbeResult()


def _output(argv: Sequence[str], stdin: str = "") -> str:
    """Return what a program prints; empty if it fails, so that the others are still looked for."""
    try:
        done = run(argv, timeout_s=_VERSION_TIMEOUT_S, check=False, stdin=stdin.encode())
    except (KernelvmError, OSError):
        return ""
    return done.stdout if done.status == 0 else ""


def _version_in(text: str) -> str | None:
    # Parentheses contain the name of the package, which has digits too.
    first = re.sub(r"\(.*?\)", "", text.partition("\n")[0])
    found = re.search(r"\b\d+(?:\.\d+)*", first)
    return found[0] if found else None


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to be compared with those of another one.

    Args:
        version: As a program prints it; all numbers in it count.
    """
    return tuple(int(number) for number in re.findall(r"\d+", version))
