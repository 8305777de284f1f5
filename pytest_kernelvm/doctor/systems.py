"""Package systems: which one this machine has, and how it installs what is missing."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from pytest_kernelvm.doctor.finding import Finding, System

_COMMANDS: dict[System, tuple[str, ...]] = {
    "apt": ("apt-get", "install", "--no-install-recommends"),
    "dnf": ("dnf", "install", "--setopt=install_weak_deps=False"),
    "pacman": ("pacman", "-S", "--needed"),
    "nix": ("nix-shell", "-p"),
    "brew": ("brew", "install"),
}
_NEED_ROOT: tuple[System, ...] = ("apt", "dnf", "pacman")
_LINUX_ONLY: dict[System, str] = {
    "brew": "kernelvm works on Linux only; on macOS, work inside a Linux VM or container"
}

# ID and ID_LIKE of os-release(5).
_SYSTEM_OF_OS: dict[str, System] = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "rhel": "dnf",
    "centos": "dnf",
    "arch": "pacman",
    "nixos": "nix",
}
_SYSTEM_PROGRAMS: dict[System, str] = {
    "apt": "apt-get",
    "dnf": "dnf",
    "pacman": "pacman",
    "nix": "nix-shell",
    "brew": "brew",
}


def missing_packages(findings: Iterable[Finding], system: System) -> tuple[str, ...]:
    """Return the packages of one system that contain what is required and missing.

    Args:
        findings: Of all programs and files that were looked for.
        system: The package system whose names are wanted.
    """
    return _packages((f for f in findings if f.required and not f.satisfied), system)


def install_command(
    findings: Iterable[Finding], system: System, *, everything: bool = False
) -> str:
    """Return the command that installs what is required and missing, empty if nothing is.

    Args:
        findings: What was looked for.
        system: The package system whose command it is.
        everything: Name the packages of all that is required, be it here or not: for another
            machine.
    """
    findings = tuple(findings)
    packages = (
        _packages((f for f in findings if f.required), system)
        if everything
        else missing_packages(findings, system)
    )
    if not packages:
        return ""
    sudo = ("sudo",) if system in _NEED_ROOT and os.geteuid() != 0 else ()
    return shlex.join([*sudo, *_COMMANDS[system], *packages])


def notes(
    findings: Iterable[Finding], system: System, *, everything: bool = False
) -> tuple[str, ...]:
    """Return what the packages of a system do not solve and what to do instead, in sentences.

    Args:
        findings: What was looked for.
        system: The package system.
        everything: As in `install_command`.
    """
    wanted = [f for f in findings if f.required and (everything or not f.satisfied)]
    general = [_LINUX_ONLY[system]] if wanted and system in _LINUX_ONLY else []
    special = [f.notes[system] for f in wanted if system in f.notes]
    return tuple(dict.fromkeys([*general, *special]))


def detected_system(os_release: Path = Path("/etc/os-release")) -> System | None:
    """Return the package system of this machine, None if it is none of SYSTEMS.

    Args:
        os_release: The file that names the distribution (os-release(5)).
    """
    for name in _os_names(os_release):
        if name in _SYSTEM_OF_OS:
            return _SYSTEM_OF_OS[name]
    return next((s for s, program in _SYSTEM_PROGRAMS.items() if shutil.which(program)), None)


def _packages(findings: Iterable[Finding], system: System) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for f in findings for name in f.packages.get(system, ())))


def _os_names(os_release: Path) -> list[str]:
    try:
        text = os_release.read_text()
    except OSError:
        return []
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return [
        name
        for key in ("ID", "ID_LIKE")
        for word in shlex.split(values.get(key, ""))
        for name in word.split()
    ]
