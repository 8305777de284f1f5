"""The text of a .config: its symbols, values that mean the same, requests that it lost."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_kernelvm.config.requests import Requested

SET_LINE = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)")
UNSET_LINE = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")
_INTEGER = re.compile(r"-?[0-9]+")
_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]+")


def parse_config(text: str) -> dict[str, str]:
    """Return the symbols of a .config that are set, by name without CONFIG_.

    Symbols that are absent or `is not set` are left out: Kconfig's conf reads both as n.

    Args:
        text: The content of a .config.
    """
    return {found[1]: found[2] for line in text.split("\n") if (found := SET_LINE.fullmatch(line))}


def not_set(text: str) -> frozenset[str]:
    """Return the symbols of a .config that are visible and `is not set`.

    Args:
        text: The content of a .config.
    """
    lines = (UNSET_LINE.fullmatch(line) for line in text.split("\n"))
    return frozenset(found[1] for found in lines if found)


def config_line(name: str, value: str) -> str:
    """Return the line of a .config that gives a symbol a value.

    Args:
        name: Without CONFIG_.
        value: As .config spells it; n gives `is not set`.
    """
    return f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n"


def as_config(values: Mapping[str, str]) -> str:
    """Return values by symbol as the text of a fragment.

    Args:
        values: By name without CONFIG_.
    """
    return "".join(config_line(name, value) for name, value in sorted(values.items()))


def same_value(one: str, other: str) -> bool:
    """Return whether two values of a .config mean the same: 0x0F and 0xf, n and an empty text.

    Args:
        one: As .config spells it.
        other: As .config spells it.
    """
    if one == other or {one, other} == {"n", '""'}:
        return True
    if one.lower().startswith("0x") or other.lower().startswith("0x"):
        numbers = _HEX.fullmatch(one) and _HEX.fullmatch(other)
        return bool(numbers) and int(one, 16) == int(other, 16)
    if _INTEGER.fullmatch(one) and _INTEGER.fullmatch(other):
        return int(one) == int(other)
    return False


def well_formed(value: str) -> bool:
    """Return whether conf can read a value: y, m, n, a number, or a text in quotes.

    In a text, a backslash stands before each quote and backslash (scripts/kconfig/confdata.c,
    conf_set_sym_val).

    Args:
        value: As .config would spell it.
    """
    if value.startswith('"'):
        return bool(re.fullmatch(r'"(?:[^"\\]|\\.)*"', value))
    return value in ("y", "m", "n") or bool(_INTEGER.fullmatch(value) or _HEX.fullmatch(value))


def lost_requests(
    requests: Mapping[str, Requested], final: Mapping[str, str]
) -> tuple[Requested, ...]:
    """Return the requests that a final configuration does not honour, optional ones included.

    Args:
        requests: By symbol.
        final: The values of the configuration.
    """
    return tuple(
        request
        for name, request in sorted(requests.items())
        if not same_value(request.value, final.get(name, "n"))
    )
