"""What the plugin takes on pytest's command line and in its ini file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_kernelvm.session.fresh import FRESH

SPLATS = ("fail", "warn", "off")


class Option:
    """An option of pytest's command line.

    A dataclass or a named tuple would cost a third of a millisecond in each pytest run.

    Attributes:
        name: The option as it is written.
        meaning: What it does, in one line.
        default: What is taken without it, in words.
        metavar: What stands for its value in the help text; empty where `choices` do, and for a
            flag without a value.
        choices: The values that it may have; empty for any.
        repeatable: Whether it may be given several times.
        value: What pytest returns for an option that is not given.
    """

    def __init__(
        self,
        name: str,
        meaning: str,
        default: str,
        *,
        metavar: str = "",
        choices: tuple[str, ...] = (),
        repeatable: bool = False,
        value: str | None = None,
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.default = default
        self.metavar = metavar
        self.choices = choices
        self.repeatable = repeatable
        self.value = value

    @property
    def has_value(self) -> bool:
        """Whether a value follows it."""
        return bool(self.metavar or self.choices)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of pytest's addoption."""
        keywords: dict[str, Any] = {"help": f"{self.meaning}; default {self.default}"}
        if self.metavar:
            keywords["metavar"] = self.metavar
        if self.choices:
            keywords["choices"] = self.choices
        if self.repeatable:
            return keywords | {"action": "append", "default": []}
        return keywords | ({"default": self.value} if self.has_value else {"action": "store_true"})


class IniOption:
    """An option of pytest's ini file.

    Attributes:
        name: The option as it is written.
        meaning: What it does, in one line.
        default: Its value where the ini file does not name it.
        choices: The values that it may have; empty for any.
    """

    def __init__(
        self, name: str, meaning: str, default: str | bool, choices: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.default = default
        self.choices = choices


OPTIONS = (
    Option(
        "--kernelvm-config",
        "test this vm-config (malta), cell (malta-6.12) or file; repeatable",
        "all of the directory",
        metavar="NAME",
        repeatable=True,
    ),
    Option(
        "--kernelvm-arch",
        "test the cells of this architecture; repeatable",
        "those of all architectures",
        metavar="ARCH",
        repeatable=True,
    ),
    Option(
        "--kernelvm-configs",
        "directory of vm-configs",
        "the ini option kernelvm_configs",
        metavar="DIR",
    ),
    Option(
        "--kernelvm-store",
        "where built kernels are kept",
        "$KERNELVM_STORE or ~/.cache/kernelvm",
        metavar="DIR",
    ),
    Option(
        "--kernelvm-source",
        "where the kernels come from: tree:PATH, git:REPOSITORY@REF, … as for kernelvm build",
        "what each vm-config says",
        metavar="KIND:VALUE",
    ),
    Option(
        "--kernelvm-fresh",
        "how each `vm` gets its state right after boot: from a stored snapshot (restore), by "
        "booting (boot), or from the test before where both are marked clean=True (share)",
        "the ini option kernelvm_fresh",
        choices=FRESH,
    ),
    Option(
        "--kernelvm-keep",
        "keep the guests of failed tests as the failure left them (failed), for `kernelvm attach`",
        "none",
        choices=("failed", "none"),
        value="none",
    ),
    Option(
        "--kernelvm-record",
        "record each guest's console as an asciinema cast in the ini option kernelvm_casts",
        "no recordings",
    ),
    Option(
        "--kernelvm-splats",
        "what becomes of a test whose kernel finds something wrong that was not allowed "
        "(WARN, BUG, oops, KASAN, lockups, …)",
        "the ini option kernelvm_splats",
        choices=SPLATS,
    ),
)
INI_OPTIONS = (
    IniOption("kernelvm_casts", "directory of recordings", "kernelvm-casts"),
    IniOption(
        "kernelvm_short_fixtures",
        "whether fixtures have their short names (vm) beside the long ones (kernelvm_vm)",
        True,
    ),
    IniOption("kernelvm_configs", "directory of vm-configs", "vm-configs"),
    IniOption(
        "kernelvm_console_limit",
        "MiB of each guest's console that are kept; a guest that says more fails its test",
        "48",
    ),
    IniOption(
        "kernelvm_fresh", "restore, boot or share, as --kernelvm-fresh", "restore", choices=FRESH
    ),
    IniOption("kernelvm_splats", "fail, warn or off, as --kernelvm-splats", "fail", choices=SPLATS),
)
# The options with a value, which may be written behind a space.
VALUED = tuple(option.name for option in OPTIONS if option.has_value)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; in a run without guests the plugin does nothing else."""
    group = parser.getgroup("kernelvm", "kernelvm: kernels in virtual machines")
    for option in OPTIONS:
        group.addoption(option.name, **option.keywords)
    for ini in INI_OPTIONS:
        kind: Literal["bool"] | None = "bool" if isinstance(ini.default, bool) else None
        parser.addini(ini.name, ini.meaning, type=kind, default=ini.default)


def check_ini(config: pytest.Config) -> None:
    """Check the values in the ini file.

    Raises:
        UsageError: One of them is not among those that its option may have.
    """
    for ini in INI_OPTIONS:
        if isinstance(ini.default, bool):
            try:
                config.getini(ini.name)
            except (ValueError, pytest.UsageError) as error:
                raise pytest.UsageError(f"{ini.name} is true or false: {error}") from None
        elif ini.choices and (value := config.getini(ini.name)) not in ini.choices:
            raise pytest.UsageError(f"{ini.name} is one of {', '.join(ini.choices)}, not {value!r}")


def configs_directory(config: pytest.Config) -> Path:
    """Return the directory of the vm-configs, absolute."""
    named = config.getoption("--kernelvm-configs") or config.getini("kernelvm_configs")
    return Path(config.rootpath, named)


def are_named(config: pytest.Config) -> bool:
    """Return whether the command line names vm-configs, so that a mistake in them ends the run."""
    options = ("config", "arch", "configs", "source")
    return any(config.getoption(f"--kernelvm-{each}") for each in options)


def store_root(config: pytest.Config) -> Path:
    """Return the directory of the store, absolute."""
    from pytest_kernelvm.store.store import default_store

    named = config.getoption("--kernelvm-store")
    return Path(named).absolute() if named else default_store()


def console_limit_bytes(config: pytest.Config) -> int:
    """Return how many bytes of each guest's console are stored.

    Raises:
        UsageError: The ini option is not a number of MiB.
    """
    words = config.getini("kernelvm_console_limit")
    if not (words.isascii() and words.isdecimal() and int(words)):
        raise pytest.UsageError(f"kernelvm_console_limit is a number of MiB, not {words!r}")
    return int(words) << 20


def fresh_of(config: pytest.Config) -> str:
    """Return how tests get their guests in this run: one of FRESH."""
    named: str = config.getoption("--kernelvm-fresh") or config.getini("kernelvm_fresh")
    return named
