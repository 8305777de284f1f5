"""Which objects of a kernel image were compiled by which symbols' values.

kbuild notes it for itself: scripts/basic/fixdep writes `include/config/SYMBOL` into the notes of
every object whose source or headers mention CONFIG_SYMBOL. An image that was made with another
value of such a symbol has other code there, or structures of another layout, whatever vermagic
says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

USES = "config-uses.json"
CACHE = ".config-uses.json"
# So many notes are read again sooner than the cache is written.
FEW = 50
# More objects than this are not named.
MOST_NAMED = 8

_NAMES = re.compile(rb"include/config/([A-Z0-9a-z_]+)\b")


def write_uses(objects: Path, entry: Path) -> None:
    """Write which built-in objects of a build directory depend on which symbols.

    What was found is noted in the build directory too, as reading all of kbuild's notes takes a
    second: after an edit the next call reads those alone that are new.
    """
    try:
        cached = json.loads((objects / CACHE).read_bytes())
    except (OSError, ValueError):
        cached = {"found": {}, "table": {}}
    known = cached["found"]
    found = dict(_read_notes(objects, known))
    table = cached["table"]
    symbols = {made: note[1] for made, note in found.items()}
    if symbols != {made: note[1] for made, note in known.items()}:
        table = _table(symbols)
    read = sum(note != known.get(made) for made, note in found.items())
    if table is not cached["table"] or read > FEW:
        (objects / CACHE).write_text(json.dumps({"found": found, "table": table}))
    (entry / USES).write_text(json.dumps(table))


def _read_notes(
    objects: Path, cached: Mapping[str, tuple[int, str]]
) -> Iterator[tuple[str, tuple[int, str]]]:
    """Give, by object, the time of its note and the symbols in it, separated by blanks."""
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
                yield made, before
                continue
            text = Path(note).read_bytes()
            symbols = () if b" -DMODULE " in text else sorted(set(_NAMES.findall(text)))
            yield made, (time_ns, b" ".join(symbols).decode())


def _table(found: Mapping[str, str]) -> dict[str, tuple[int, list[str]]]:
    users: dict[str, list[str]] = {}
    for made in sorted(found):
        for symbol in found[made].split():
            users.setdefault(symbol, []).append(made)
    return {symbol: (len(users[symbol]), users[symbol][:MOST_NAMED]) for symbol in sorted(users)}


def read_uses(entry: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return, by symbol, how many built-in objects depend on it, and some of them."""
    try:
        table = json.loads((entry / USES).read_bytes())
    except FileNotFoundError:
        return {}
    return {symbol: (int(count), tuple(named)) for symbol, (count, named) in table.items()}


def differences(
    image: Mapping[str, str], modules: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    """Return the symbols that differ: name, its value in the image, its value for the modules."""
    names = sorted(image.keys() | modules.keys())
    pairs = ((name, image.get(name, "n"), modules.get(name, "n")) for name in names)
    return tuple((name, one, other) for name, one, other in pairs if one != other)
