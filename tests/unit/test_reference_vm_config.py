"""A key of a vm-config is one row: schema and reference have each, and there is no other list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from docs.generate.vm_config import anchor, page
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.model import VM_CONFIG, CellConfig, Machine
from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.config.requests import Fragment, Requested
from pytest_kernelvm.config.roots import Pseudofile, Root
from pytest_kernelvm.config.schema import json_schema
from pytest_kernelvm.config.services import Parameter, WrittenService
from pytest_kernelvm.config.typed_yaml.expected import Expected, Flag
from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes
from pytest_kernelvm.config.typed_yaml.nodes import compose
from pytest_kernelvm.config.typed_yaml.rows import Record, Row, key, yaml_mapping
from pytest_kernelvm.errors import BadInput

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "vm-config.md"
CONFIG = ROOT / "pytest_kernelvm" / "config"

# What each class has besides the keys that stand in YAML.
NO_KEYS: dict[type[Any], set[str]] = {
    CellConfig: {"id", "name", "file"},
    Requested: {"name", "where"},
    Fragment: {"where"},
    Patch: {"where"},
    Root: {"where"},
    Pseudofile: {"path", "where"},
    WrittenService: {"name", "where", "keys"},
    Parameter: {"name"},
}


def records(path: str, expected: Expected[Any]) -> Iterator[tuple[str, Record[Any]]]:
    """Yield all mappings with known keys, by every path that leads to them."""
    if isinstance(expected, Record):
        yield path, expected
    for further, part in expected.parts():
        yield from records(f"{path}{further}".removeprefix("."), part)


def rows() -> Iterator[tuple[str, Row]]:
    for path, record in records("", VM_CONFIG):
        for row in record.rows.values():
            yield f"{path}.{row.key}".removeprefix("."), row


def schemas_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and all that are inside it."""
    yield schema
    inner = [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
    inner += [each for name in ("items", "additionalProperties") if (each := schema.get(name))]
    for each in inner:
        yield from schemas_of(each)


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "docs/reference/vm-config.md is stale; run: make reference"


def test_its_links_lead_somewhere() -> None:
    text = page()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    slugs = [re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings]
    anchors = re.findall(r'<a id="([^"]*)">', text)
    assert len(set(slugs + anchors)) == len(slugs) + len(anchors)
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert links
    assert set(links) <= set(slugs)


def test_each_field_is_a_key() -> None:
    found = {record.cls: record for _, record in records("", VM_CONFIG)}
    assert set(NO_KEYS) < found.keys()
    for cls, record in found.items():
        keys = {row.field for row in record.rows.values()}
        assert {field.name for field in fields(cls)} - keys == NO_KEYS.get(cls, set()), cls


def test_each_row_is_in_schema_and_page() -> None:
    text = page()
    known = {
        (name, inner["description"])
        for schema in schemas_of(json_schema())
        for name, inner in schema.get("properties", {}).items()
    }
    firsts: dict[type[Any], str] = {}
    for path, record in records("", VM_CONFIG):
        first = firsts.setdefault(record.cls, path)
        for row in record.rows.values():
            assert row.expected.doc
            assert (row.key, row.doc) in known
            assert (
                f'<a id="{anchor(f"{first}.{row.key}".removeprefix("."))}"></a>`{row.key}`' in text
            )


# A key that is added


@yaml_mapping
class _MoreOfMachine(Machine):
    usb: bool = key(Flag(doc="Whether there is USB."), default=False)


@yaml_mapping
class _MoreOfCell(CellConfig):
    fast: bool = key(Flag(doc="Whether it is fast."), default=True)
    machine: Machine = key(Record(cls=_MoreOfMachine, doc="A machine."))


MORE = Record(cls=_MoreOfCell, doc="A vm-config with keys of a test.")
TEXT = "arch: mips\nkernel: {version: 6.1}\nfast: false\nmachine: {usb: true}\n"


def read(directory: Path, text: str) -> _MoreOfCell:
    file = directory / "m.yaml"
    file.write_text(text)
    mistakes = Mistakes(file)
    written = MORE.read(compose(file), mistakes)
    mistakes.raise_if_any()
    return MORE.value(written, CellContext(file=file, arch=ARCHES["mips"], version="6.1"))


def test_one_field_adds_a_key(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT)
    assert isinstance(config.machine, _MoreOfMachine)
    assert (config.fast, config.machine.usb, config.machine.memory_mib) == (False, True, 128)
    assert read(tmp_path, TEXT.replace("fast: false\n", "")).fast
    with pytest.raises(BadInput, match=r"m\.yaml:3:7: expected true or false, not 'no'"):
        read(tmp_path, TEXT.replace("fast: false", "fast: no"))
    with pytest.raises(BadInput, match=r"unknown key 'usbb': did you mean 'usb'\?"):
        read(tmp_path, TEXT.replace("usb:", "usbb:"))
    schema = MORE.schema()
    assert schema["properties"]["fast"]["description"] == "Whether it is fast. Default: true."
    jsonschema.validate(
        {"arch": "mips", "kernel": {"version": "6.1"}, "machine": {}, "fast": True}, schema
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {"arch": "mips", "kernel": {"version": "6.1"}, "machine": {"usb": "yes"}}, schema
        )


# Where a file becomes cells, and where a message needs a text's place.
BY_NAME = {
    "load.py": ["arch", "kernel", "version"],
    "patches.py": ["file"],
    "services.py": ["default"],
}


def test_no_other_list_of_keys() -> None:
    keys = {row.key for _, row in rows()}
    found: dict[str, list[str]] = {}
    for file in sorted(CONFIG.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            name = looked_up(node)
            if name in keys:
                found.setdefault(file.name, []).append(name)
    assert {name: sorted(names) for name, names in found.items()} == BY_NAME


def looked_up(node: ast.AST) -> str:
    """Return the constant that a subscript or a call of `get` looks up, empty for other nodes."""
    if isinstance(node, ast.Subscript):
        index: ast.AST = node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        index = node.args[0] if node.func.attr in ("get", "pop") else node
    else:
        return ""
    return index.value if isinstance(index, ast.Constant) and isinstance(index.value, str) else ""
