"""Kconfig symbols that a vm-config asks for: in fragments, `symbols:` and `conditional:`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.typed_yaml.expected import (
    Flag,
    ListOf,
    MapOf,
    PlacedText,
    Text,
    placed,
)
from pytest_kernelvm.config.typed_yaml.rows import Record, given, key, place_of, yaml_mapping
from pytest_kernelvm.config.versions import (
    EVERY_VERSION,
    RANGE_PATTERN,
    RANGE_SHAPE,
    VersionRange,
)


def versions_key() -> VersionRange:
    """Declare the key that says for which kernel versions something is."""
    return key(
        Text(doc="The kernel versions it is for.", pattern=RANGE_PATTERN, shape=RANGE_SHAPE),
        convert=lambda text, _context: VersionRange(text),
        default=EVERY_VERSION,
        default_text="all",
    )


def optional_key() -> bool:
    """Declare the key that says whether something may be lost."""
    return key(Flag(doc="Whether it may be lost in olddefconfig."), default=False)


def force_key() -> bool:
    """Declare the key that says whether something wins against requests that do not force."""
    return key(
        Flag(doc="Whether it wins where another place asks for another value."), default=False
    )


def symbol_value(value: PlacedText) -> str:
    """Return the value of a symbol as .config spells it: texts are in quotes.

    Args:
        value: As the vm-config has it: y, m, n, a number or a text without quotes.
    """
    text = value.text
    unquoted = text in ("y", "m", "n") or text.removeprefix("-").isdecimal() or _is_hex(text)
    if unquoted and not value.quoted:
        return text
    # As scripts/kconfig/util.c, escape_string_value() does.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_hex(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return text.startswith("0x")


@yaml_mapping
class Requested:
    """One symbol that must be in the final .config, and who asked for it.

    Attributes:
        name: The symbol without CONFIG_.
        value: As .config spells it: y, m, n, a number, or a text in quotes.
        where: Who asked: `file:line`, perhaps with a column.
        versions: The kernels for which it is asked.
        optional: Whether the symbol may be lost without an error.
        force: Whether it wins against requests for the same symbol that do not force.
    """

    name: str = given(lambda _written, context: context.name)
    value: str = key(
        placed("y, m, n, a number, or a text.", pattern=r"[^\n\r]*", shape="one line of text"),
        convert=lambda value, _context: symbol_value(value),
    )
    where: str = place_of("value")
    versions: VersionRange = versions_key()
    optional: bool = optional_key()
    force: bool = force_key()

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


def within_versions(request: Requested, versions: VersionRange) -> Requested:
    """Return a request that holds for fewer kernel versions.

    Args:
        request: What is asked for.
        versions: For all other versions nothing is asked, such as those that a patch is not for.
    """
    both = (each.text for each in (versions, request.versions) if each.text)
    return replace(request, versions=VersionRange(",".join(both)))


@yaml_mapping
class Fragment:
    """A partial .config file.

    Attributes:
        path: The file.
        where: The place in the vm-config.
        versions: For all that the file asks for, as in Requested.
        optional: For all that the file asks for, as in Requested.
        force: For all that the file asks for, as in Requested.
    """

    path: Path = key(
        placed("A partial .config file, relative to this file.", pattern=r".+", shape="a path"),
        name="file",
        convert=lambda name, context: existing_file(name, context, "the fragment"),
    )
    where: str = place_of("file")
    versions: VersionRange = versions_key()
    optional: bool = optional_key()
    force: bool = force_key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditional:
    """Symbols that are asked for only if another one is set.

    Attributes:
        name: The other symbol, without CONFIG_.
        value: The value that it must have, empty for any value but n.
        where: The place in the vm-config.
        symbols: What is asked for then.
    """

    name: str
    value: str
    where: str
    symbols: tuple[Requested, ...]


_SYMBOL = Text(
    doc="A Kconfig symbol, without CONFIG_.",
    pattern=r"(?!CONFIG_)[A-Za-z0-9_]+",
    shape="a symbol without CONFIG_, such as IPV6",
)
_VALUE = "A value and how it is asked for."
SYMBOLS = MapOf(
    doc="Symbols that must hold: y, m, n, a number, or a text.",
    key=_SYMBOL,
    placeholder="SYMBOL",
    item=ListOf(
        doc="One value for each range of versions.",
        item=Record(cls=Requested, doc=_VALUE),
        one=Record(cls=Requested, doc=_VALUE, bare="value"),
    ),
)
FRAGMENTS = ListOf(
    doc="Partial .config files, relative to this file.",
    item=Record(cls=Fragment, doc="A fragment and how it is asked for.", bare="file"),
)
CONDITIONAL = MapOf(
    doc="Symbols to add where another is set (`USB`) or has a value (`USB=m`).",
    key=Text(
        doc="A condition.",
        pattern=rf"{_SYMBOL.pattern}(?:=[^\n\r]+)?",
        shape="a symbol, or SYMBOL=value",
    ),
    placeholder="CONDITION",
    item=SYMBOLS,
)


def all_requests(symbols: dict[str, tuple[Requested, ...]]) -> tuple[Requested, ...]:
    """Return all requests of a `symbols` mapping, in the order of the file.

    Args:
        symbols: The requests by symbol, several where they are for different versions.
    """
    return tuple(request for requests in symbols.values() for request in requests)


def conditions(
    found: dict[str, dict[str, tuple[Requested, ...]]], context: CellContext
) -> tuple[Conditional, ...]:
    """Return the requests that depend on other symbols.

    Args:
        found: The `symbols` mapping of each condition, `SYMBOL` or `SYMBOL=value`.
        context: Says which file it is.
    """
    return tuple(
        _conditional(condition, all_requests(symbols), context)
        for condition, symbols in found.items()
    )


def _conditional(
    condition: str, requests: tuple[Requested, ...], context: CellContext
) -> Conditional:
    name, _, value = condition.partition("=")
    where = requests[0].where if requests else str(context.file)
    return Conditional(name=name, value=value, where=where, symbols=requests)
