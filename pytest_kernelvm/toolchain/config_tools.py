"""Programs that a kernel is built with only if its configuration says so.

Kconfig writes their versions into every .config. They are hidden from Kconfig where a configuration
does not need them, so that a machine that has them and one that has not build the same kernel.
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

# Make gets this instead of a program's name; no program has it.
HIDDEN = "not-used"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigTool:
    """A program that is needed where a symbol is y.

    Attributes:
        symbol: The symbol, without CONFIG_.
        variable: The variable of the kernel's make that names the program.
        program: Its name in PATH.
        package: Debian's package of it.
        least: The oldest version that is new enough, as major and minor number
            (Documentation/process/changes.rst).
    """

    symbol: str
    variable: str
    program: str
    package: str
    least: tuple[int, int] = (0, 0)


CONFIG_TOOLS = (
    ConfigTool(symbol="RUST", variable="RUSTC", program="rustc", package="rustc"),
    # Before 6.12 the symbol does not depend on the program: conf sets it to y, and
    # scripts/link-vmlinux.sh fails after everything has been compiled.
    ConfigTool(
        symbol="DEBUG_INFO_BTF",
        variable="PAHOLE",
        program="pahole",
        package="dwarves",
        least=(1, 16),
    ),
)


def needed_tools(values: Mapping[str, str]) -> frozenset[str]:
    """Return the make variables of the programs that a configuration needs.

    Args:
        values: Values by symbol, as in a .config.
    """
    return frozenset(tool.variable for tool in CONFIG_TOOLS if values.get(tool.symbol) == "y")


def hiding_settings(needed: Iterable[str]) -> tuple[str, ...]:
    """Return the settings for make that hide all programs but some.

    Args:
        needed: The make variables of the programs that are not hidden.
    """
    shown = frozenset(needed)
    return tuple(f"{tool.variable}={HIDDEN}" for tool in CONFIG_TOOLS if tool.variable not in shown)


def tool_versions(settings: Collection[str]) -> tuple[str, ...]:
    """Return what the programs that are not hidden print as their versions.

    Args:
        settings: Make's settings, such as those of `hiding_settings`.

    Returns:
        One text a program, empty for one that is not installed.
    """
    shown = (tool for tool in CONFIG_TOOLS if f"{tool.variable}={HIDDEN}" not in settings)
    return tuple(_version_text(tool) for tool in shown)


def require_tools(
    label: str, values: Mapping[str, str], requests: Mapping[str, Requested], *, where: str
) -> None:
    """Check that the programs that a configuration needs are installed and new enough.

    If one is missing or too old, ToolMissing is raised and names its package.

    Args:
        label: Whose configuration it is, for the message.
        values: Values by symbol, those of a final .config or those that are requested.
        requests: By symbol, the requests; the message names where one was made.
        where: What the message names for symbols that nobody requested: the base configuration.
    """
    for tool in CONFIG_TOOLS:
        if values.get(tool.symbol) == "y":
            request = requests.get(tool.symbol)
            _require(label, tool, request.where if request else where)


def lacks_program(symbol: str) -> bool:
    """Return whether a symbol cannot be y because the program that it needs is not installed.

    Args:
        symbol: Without CONFIG_.
    """
    return any(tool.symbol == symbol and not _version_text(tool) for tool in CONFIG_TOOLS)


def missing_tool_notes(symbols: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for each symbol that is off because its program is not installed.

    Args:
        symbols: The symbols to look at; others are passed over.
    """
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
