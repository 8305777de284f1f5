"""What the plugin takes on pytest's command line and in its ini file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.plugin import markers

# The options that have a value, which may stand behind a space.
VALUED = (
    *("--kernelvm-config", "--kernelvm-arch", "--kernelvm-configs", "--kernelvm-store"),
    *("--kernelvm-source", "--kernelvm-fresh", "--kernelvm-keep", "--kernelvm-splats"),
)
SPLATS = ("fail", "warn", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; this is the plugin's whole cost in a run without guests."""
    group = parser.getgroup("kernelvm", "kernels in virtual machines")
    group.addoption(
        "--kernelvm-config",
        action="append",
        default=[],
        metavar="NAME",
        help="test this vm-config (malta), cell (malta-6.12) or file; repeatable; default all",
    )
    group.addoption(
        "--kernelvm-arch",
        action="append",
        default=[],
        metavar="ARCH",
        help="test the cells of this architecture; repeatable",
    )
    group.addoption(
        "--kernelvm-configs",
        metavar="DIR",
        help="directory of vm-configs, default the ini option kernelvm_configs",
    )
    group.addoption(
        "--kernelvm-store",
        metavar="DIR",
        help="where built kernels are kept, default $KERNELVM_STORE or ~/.cache/kernelvm",
    )
    group.addoption(
        "--kernelvm-source",
        metavar="KIND:VALUE",
        help="take the kernels from there: tree:PATH, git:REPOSITORY@REF, … as for kernelvm build",
    )
    group.addoption(
        "--kernelvm-fresh",
        choices=markers.FRESH,
        help="how each `vm` gets its state right after boot: from a stored snapshot (restore, the "
        "default), by booting (boot), or from the test before where both are marked clean=True "
        "(share); default the ini option kernelvm_fresh",
    )
    group.addoption(
        "--kernelvm-keep",
        choices=("failed", "none"),
        default="none",
        help="keep the guests of failed tests as the failure left them (failed), for `kernelvm "
        "attach`; default none",
    )
    group.addoption(
        "--kernelvm-record",
        action="store_true",
        help="record each guest's console as an asciinema cast in the ini option kernelvm_casts",
    )
    parser.addini("kernelvm_casts", "directory of recordings", default="kernelvm-casts")
    group.addoption(
        "--kernelvm-splats",
        choices=SPLATS,
        help="what becomes of a test whose kernel finds something wrong that was not allowed "
        "(WARN, BUG, oops, KASAN, lockups, …); default the ini option kernelvm_splats",
    )
    parser.addini(
        "kernelvm_short_fixtures",
        "whether fixtures have their short names (vm) beside the long ones (kernelvm_vm)",
        type="bool",
        default=True,
    )
    parser.addini("kernelvm_configs", "directory of vm-configs", default="vm-configs")
    parser.addini(
        "kernelvm_console_limit",
        "MiB of each guest's console that are kept; a guest that says more fails its test",
        default="48",
    )
    parser.addini(
        "kernelvm_fresh", "restore, boot or share, as --kernelvm-fresh", default="restore"
    )
    parser.addini("kernelvm_splats", "fail, warn or off, as --kernelvm-splats", default="fail")


def configs_directory(config: pytest.Config) -> Path:
    """Return the directory of the vm-configs."""
    named = config.getoption("--kernelvm-configs") or config.getini("kernelvm_configs")
    return Path(config.rootpath, named)


def are_named(config: pytest.Config) -> bool:
    """Whether the command line names vm-configs, so that a mistake in them is the run's."""
    options = ("config", "arch", "configs", "source")
    return any(config.getoption(f"--kernelvm-{each}") for each in options)


def store_root(config: pytest.Config) -> Path:
    """Return the directory of the store."""
    from pytest_kernelvm.store.store import default_store

    named = config.getoption("--kernelvm-store")
    return Path(named).absolute() if named else default_store()


def console_limit_bytes(config: pytest.Config) -> int:
    """Return how much of a guest's console is kept. Raises UsageError."""
    words = config.getini("kernelvm_console_limit")
    if not (words.isascii() and words.isdecimal() and int(words)):
        raise pytest.UsageError(f"kernelvm_console_limit is a number of MiB, not {words!r}")
    return int(words) << 20


def fresh_of(config: pytest.Config) -> str:
    """Return how a test gets its guest: restored, booted or shared."""
    named: str = config.getoption("--kernelvm-fresh") or config.getini("kernelvm_fresh")
    return named
