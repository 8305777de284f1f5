"""The reference of vm-configs, made of the rows of their keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pytest_kernelvm.config.model import VM_CONFIG
from pytest_kernelvm.config.typed_yaml.expected import Expected
from pytest_kernelvm.config.typed_yaml.rows import Record, Row

# A section for each mapping with known keys: its path, and what it is.
Sections = dict[str, Record[Any]]

HEAD = """\
# vm-config

All keys of a vm-config: what each may be, its default and what it means.
[Write a vm-config](../how-to/write-a-vm-config.md) has an example with most of them.
`kernelvm schema` prints the same as a JSON Schema, for editors. This page is generated:
`make reference` writes it from the rows in `pytest_kernelvm/config/`.

A path such as `kernel.patches[].file` is the key `file` of each item of the list `patches` in
`kernel`; a word in capitals stands for a name that you choose. `{version}` in paths, and in
what `kernel.source` says, stands for the version of the cell.
"""
# What there is to say of a mapping besides its rows.
NOTES = {
    "services.SERVICE": "The services that come with the package are described with these keys in "
    "`pytest_kernelvm/config/services.yaml`.",
}
# Defaults that YAML has no words for.
_NOTHING = ((), "", None)


def page() -> str:
    """Return the page, in Markdown."""
    sections = dict(_sections("", VM_CONFIG, set()))
    parts = [HEAD]
    for path, record in sections.items():
        parts.append("\n".join(_section(path, record, sections)))
    return "\n".join(parts)


def _sections(
    path: str, expected: Expected[Any], seen: set[type[Any]]
) -> Iterator[tuple[str, Record[Any]]]:
    """Yield each mapping with known keys once, by the first path that leads to it."""
    if isinstance(expected, Record):
        if expected.cls in seen:
            return
        seen.add(expected.cls)
        yield path, expected
    for further, part in expected.parts():
        yield from _sections(f"{path}{further}".removeprefix("."), part, seen)


def _section(path: str, record: Record[Any], sections: Sections) -> Iterator[str]:
    yield f"## `{path}`\n" if path else "## The file\n"
    yield f"{_escaped(record.doc)}\n"
    if record.bare:
        yield f"A scalar in its place stands for `{record.bare}` alone.\n"
    if record.one_of:
        yield f"Exactly one of {', '.join(f'`{name}`' for name in record.one_of)}.\n"
    if path in NOTES:
        yield f"{NOTES[path]}\n"
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for row in record.rows.values():
        name = f"{path}.{row.key}".removeprefix(".")
        cells = (
            f'<a id="{anchor(name)}"></a>`{row.key}`',
            _value(name, row, sections),
            _default(row, record),
            _escaped(row.expected.doc),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def anchor(path: str) -> str:
    """Return the anchor of a key."""
    return f"key.{path.replace('[]', '')}"


def _value(path: str, row: Row, sections: Sections) -> str:
    found = _escaped(row.expected.summary())
    inner = next(_sections(path, row.expected, set()), None)
    if inner is None:
        return found
    (target,) = (name for name, record in sections.items() if record.cls is inner[1].cls)
    return f"{found}; see [`{target}`](#{heading_anchor(target)})"


def heading_anchor(path: str) -> str:
    """Return the anchor that a section's heading gets."""
    return re.sub(r"[^a-z0-9_-]", "", path.lower())


def _default(row: Row, record: Record[Any]) -> str:
    if row.required:
        return "required"
    if row.beside:
        only = f"only beside `{row.beside}`"
        return f"{_escaped(row.default_text)}; {only}" if row.default_text else only
    if row.key not in record.one_of and not row.default_text and row.default in _NOTHING:
        return "none"
    if isinstance(row.expected, Record) and not row.default_text and row.key not in record.one_of:
        return "those of its keys"
    return _escaped(row.default_text)


def _escaped(text: str) -> str:
    """Return a text as Markdown shows it literally in a table, but for what is in backquotes."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([|<*_\[\]])", r"\\\1", piece)
        for piece in pieces
    )
