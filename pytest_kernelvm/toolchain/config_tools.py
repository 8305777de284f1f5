"""Programs that a kernel is built with only if its configuration says so.

Kconfig writes their versions into every .config. They are hidden from it where nobody wants them,
so that two machines, of which one has them, come to the same kernel.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.errors import Evidence, ToolMissing
from pytest_kernelvm.process import run

# What make is told instead of a program's name; there is none of that name.
HIDDEN = "not-used"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigTool:
    """A program that is needed where a symbol is y.

    variable: make's, which names it. package: Debian's. least: the oldest version that will do.
    """

    symbol: str
    variable: str
    program: str
    package: str
    least: tuple[int, int] = (0, 0)


CONFIG_TOOLS = (
    ConfigTool(symbol="RUST", variable="RUSTC", program="rustc", package="rustc"),
    # Before 6.12 no symbol depends on it: conf says y, and scripts/link-vmlinux.sh fails when all
    # is compiled.
    ConfigTool(
        symbol="DEBUG_INFO_BTF",
        variable="PAHOLE",
        program="pahole",
        package="dwarves",
        least=(1, 16),
    ),
)


def wanted_tools(values: Mapping[str, str]) -> frozenset[str]:
    """Return the variables of the programs that a configuration needs. values: by symbol."""
    return frozenset(tool.variable for tool in CONFIG_TOOLS if values.get(tool.symbol) == "y")


def hiding(wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the settings for make that hide all programs but some. wanted: their variables."""
    shown = frozenset(wanted)
    return tuple(f"{tool.variable}={HIDDEN}" for tool in CONFIG_TOOLS if tool.variable not in shown)


def versions_of(settings: Collection[str]) -> tuple[str, ...]:
    """Return what the programs say of their versions that some of make's settings do not hide.

    It is empty for one that is not installed.
    """
    shown = (tool for tool in CONFIG_TOOLS if f"{tool.variable}={HIDDEN}" not in settings)
    return tuple(_version_text(tool) for tool in shown)


def require_tools(
    label: str, values: Mapping[str, str], requests: Mapping[str, Requested], *, where: str
) -> None:
    """Raise ToolMissing, with its package, if a program is not here that a configuration needs.

    label: whose it is. values: the final ones, or those asked for. requests: who asked for what.
    where: the base configuration, from which the rest comes.
    """
    for tool in CONFIG_TOOLS:
        if values.get(tool.symbol) == "y":
            request = requests.get(tool.symbol)
            _require(label, tool, request.where if request else where)


def lacks_program(symbol: str) -> bool:
    """Whether a symbol cannot be y, as the program that it needs is not installed."""
    return any(tool.symbol == symbol and not _version_text(tool) for tool in CONFIG_TOOLS)


def told_missing(symbols: Collection[str]) -> tuple[str, ...]:
    """Return, in words, which symbols cannot be y as a program is not installed."""
    return tuple(
        f"{tool.symbol} is off as {tool.program} is not installed (apt-get install {tool.package})"
        for tool in CONFIG_TOOLS
        if tool.symbol in symbols and not _version_text(tool)
    )


def _require(label: str, tool: ConfigTool, where: str) -> None:
    said = _version_text(tool)
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) >= tool.least:
        return
    oldest = ".".join(str(part) for part in tool.least)
    if said:
        seen, summary = said, f"{tool.program} is too old, or says no version"
    else:
        seen, summary = f"no {tool.program} in PATH", f"{tool.program} is not installed"
    raise ToolMissing(
        f"{label}: {summary}, and {tool.symbol}=y needs it",
        Evidence(
            expected=f"{tool.program} {oldest} or newer" if any(tool.least) else tool.program,
            seen=seen,
            where=(where,),
            next_step=f"apt-get install {tool.package}, or symbols: {{{tool.symbol}: n}}",
        ),
    )


def _version_text(tool: ConfigTool) -> str:
    program = shutil.which(tool.program, path=os.environ.get("PATH", os.defpath))
    if not program:
        return ""
    done = run([program, "--version"], timeout_s=30, check=False)
    text = (done.stdout or done.stderr).partition("\n")[0]
    return text or f"status {done.status}"
