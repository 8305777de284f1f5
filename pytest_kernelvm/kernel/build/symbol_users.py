"""Which objects of a kernel image were compiled by which symbols' values.

kbuild records it: scripts/basic/fixdep writes `include/config/SYMBOL` into the .cmd file of every
object whose source or headers mention CONFIG_SYMBOL. An image that was made with another value of
such a symbol has other code there, or structures of another layout, whatever vermagic says. The
layout differs only if a header mentions the symbol: modules include headers, not .c files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.kernel.kconfig.dot_config import same_value

USES = "config-uses.json"
CACHE = ".config-uses.json"
# To read so many .cmd files takes less time than to write the cache.
FEW = 50
# How many objects are named.
MOST_NAMED = 8

_NAMES = re.compile(rb"include/config/([A-Z0-9a-z_]+)\b")
_HEADERS = re.compile(rb"^  (\S+\.h) \\$", re.MULTILINE)
# As fixdep looks for them (scripts/basic/fixdep.c, parse_config_file).
_IN_HEADER = re.compile(rb"CONFIG_([A-Z0-9a-z_]+?)(?:_MODULE)?(?![A-Z0-9a-z_])")


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolUsers:
    """Which objects of an image were compiled by a symbol's value.

    Attributes:
        count: How many built-in objects.
        named: Names of some of them.
        in_header: Whether a header mentions the symbol.
    """

    count: int
    named: tuple[str, ...]
    in_header: bool


def write_symbol_users(objects: Path, entry: Path) -> None:
    """Write which built-in objects of a build directory depend on which symbols.

    To read all of kbuild's .cmd files takes a second. What was found is therefore recorded in the
    build directory too, and the next call reads those alone that are new.

    Args:
        objects: The build directory.
        entry: Where the table is put.
    """
    try:
        cached = json.loads((objects / CACHE).read_bytes())
        known, headers, table = cached["found"], cached["headers"], cached["table"]
    except (OSError, ValueError, KeyError):
        known, headers, table = {}, {}, {}
    found, included = _read_notes(objects, known)
    read = sum(note != known.get(made) for made, note in found.items())
    changed = _read_headers(objects, included, headers)
    symbols = {made: note[1] for made, note in found.items()}
    is_new = changed or symbols != {made: note[1] for made, note in known.items()}
    if is_new:
        table = _table(symbols, {name for note in headers.values() for name in note[1].split()})
    if is_new or read > FEW:
        noted = {"found": found, "headers": headers, "table": table}
        (objects / CACHE).write_text(json.dumps(noted))
    (entry / USES).write_text(json.dumps(table))


def _read_notes(
    objects: Path, cached: Mapping[str, tuple[int, str]]
) -> tuple[dict[str, tuple[int, str]], set[str]]:
    """Return the symbols of each object, and the headers that new .cmd files name.

    Returns:
        By object, the time of its .cmd file and the symbols in it, separated by blanks; and the
        headers.
    """
    found: dict[str, tuple[int, str]] = {}
    headers: set[bytes] = set()
    for directory, names, files in os.walk(objects):
        if Path(directory) == objects:
            names[:] = [n for n in names if n not in ("scripts", "tools", "usr", "include")]
        for name in files:
            if not (name.startswith(".") and name.endswith(".o.cmd")):
                continue
            note = f"{directory}/{name}"
            made = f"{os.path.relpath(directory, objects)}/{name[1:-4]}".removeprefix("./")
            time_ns = os.stat(note).st_mtime_ns  # noqa: PTH116
            before = cached.get(made)
            if before and before[0] == time_ns:
                found[made] = before
                continue
            text = Path(note).read_bytes()
            headers.update(_HEADERS.findall(text))
            symbols = () if b" -DMODULE " in text else sorted(set(_NAMES.findall(text)))
            found[made] = time_ns, b" ".join(symbols).decode()
    return found, {os.fsdecode(header) for header in headers}


def _read_headers(objects: Path, names: Iterable[str], known: dict[str, tuple[int, str]]) -> bool:
    """Add to what is known of headers: their time and the symbols in them; whether that changed."""
    changed = False
    for name in names:
        before = known.get(name)
        try:
            time_ns = (objects / name).stat().st_mtime_ns
            if before and before[0] == time_ns:
                continue
            text = (objects / name).read_bytes()
        except OSError:
            # A header that was generated for one object, and removed.
            continue
        symbols = b" ".join(sorted(set(_IN_HEADER.findall(text)))).decode()
        changed = changed or not before or before[1] != symbols
        known[name] = time_ns, symbols
    return changed


def _table(found: Mapping[str, str], in_headers: set[str]) -> dict[str, tuple[Any, ...]]:
    users: dict[str, list[str]] = {}
    for made in sorted(found):
        for symbol in found[made].split():
            users.setdefault(symbol, []).append(made)
    return {
        symbol: (len(users[symbol]), users[symbol][:MOST_NAMED], symbol in in_headers)
        for symbol in sorted(users)
    }


def read_symbol_users(entry: Path) -> dict[str, SymbolUsers]:
    """Return how a stored image depends on symbols, by symbol; nothing if that was not recorded.

    Args:
        entry: The kernel's directory in the store.
    """
    try:
        table = json.loads((entry / USES).read_bytes())
    except FileNotFoundError:
        return {}
    return {
        # Tables of earlier versions have no third field: then the symbol may be in a header.
        symbol: SymbolUsers(count=int(row[0]), named=tuple(row[1]), in_header=row[2:3] != [False])
        for symbol, row in table.items()
    }


def differences(
    image: Mapping[str, str], modules: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    """Return the symbols that differ between two configurations.

    Args:
        image: Values by symbol, of the image.
        modules: Values by symbol, of the modules.

    Returns:
        Name, value in the image, and value for the modules; `n` for what is not set.
    """
    names = sorted(image.keys() | modules.keys())
    pairs = ((name, image.get(name, "n"), modules.get(name, "n")) for name in names)
    return tuple(each for each in pairs if not same_value(each[1], each[2]))
