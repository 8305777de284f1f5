"""The page of pytest's options, from the rows that the plugin declares them by."""

from __future__ import annotations

from pytest_kernelvm.plugin.options import INI_OPTIONS, OPTIONS, IniOption, Option

HEAD = """\
# Options of pytest

What a run of pytest takes: options of the command line, of the ini file, and the environment. What
one test asks of its guest is in its [marker](marker-and-fixtures.md). This page is generated:
`make reference` writes it from `pytest_kernelvm/plugin/options.py`.
"""
ENVIRONMENT = """
## Environment

These count for `kernelvm` too.

| variable | meaning | default |
|---|---|---|
| `KERNELVM_STORE` | where built kernels are kept | `~/.cache/kernelvm` |
| `KERNELVM_REMOTE` | URL of a [remote store](store.md#a-remote-store) with built kernels | none |
| `KERNELVM_REMOTE_WRITE` | `1`: put kernels that are built here into that store | only read |
| `KERNELVM_KERNEL_ORG` | URL of a mirror of https://cdn.kernel.org/pub/linux/kernel | none |
"""


def page() -> str:
    """Return the page in Markdown."""
    lines = [HEAD, "## Command line", "", "| option | meaning | default |", "|---|---|---|"]
    lines += [_option(option) for option in OPTIONS]
    lines += ["", "## Ini file", "", "| option | meaning | default |", "|---|---|---|"]
    lines += [_ini(ini) for ini in INI_OPTIONS]
    return "\n".join(lines) + "\n" + ENVIRONMENT


def _option(option: Option) -> str:
    value = option.metavar or f"{{{','.join(option.choices)}}}" if option.has_value else ""
    written = f"{option.name}={value}" if value else option.name
    return _row(f"`{written}`", option.meaning, option.default)


def _ini(ini: IniOption) -> str:
    default = str(ini.default).lower() if isinstance(ini.default, bool) else ini.default
    return _row(f"`{ini.name}`", ini.meaning, f"`{default}`")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
