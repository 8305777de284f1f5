"""The page of pytest's options, from the rows that the plugin declares them by."""

from __future__ import annotations

from pytest_kernelvm.plugin.options import INI_OPTIONS, OPTIONS, IniOption, Option

HEAD = """\
# Options of pytest

This page is generated: `make reference` writes it from `pytest_kernelvm/plugin/options.py`.
"""


def page() -> str:
    """Return the page in Markdown."""
    lines = [HEAD, "## Command line", "", "| option | meaning | default |", "|---|---|---|"]
    lines += [_option(option) for option in OPTIONS]
    lines += ["", "## Ini file", "", "| option | meaning | default |", "|---|---|---|"]
    lines += [_ini(ini) for ini in INI_OPTIONS]
    return "\n".join(lines) + "\n"


def _option(option: Option) -> str:
    value = option.metavar or "|".join(option.choices)
    written = f"{option.name}={value}" if value else option.name
    return _row(f"`{written}`", option.meaning, option.default)


def _ini(ini: IniOption) -> str:
    default = str(ini.default).lower() if isinstance(ini.default, bool) else ini.default
    return _row(f"`{ini.name}`", ini.meaning, f"`{default}`")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
