"""The .bin files that kmod reads: a trie of names with their values.

Format: kmod, libkmod/libkmod-index.h. All numbers are big-endian. A node has a prefix, the offsets
of its children, and values; the upper bits of an offset tell which of these are there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

_MAGIC, _VERSION = 0xB007F457, 0x00020001
_PREFIX, _VALUES, _CHILDREN = 0x80000000, 0x40000000, 0x20000000
_HEADER = struct.Struct(">III")


@dataclass(slots=True)
class _Node:
    prefix: bytes = b""
    values: list[tuple[int, bytes]] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)


def binary_index(entries: Iterable[tuple[str, str, int]]) -> bytes:
    """Return the content of a .bin file, byte for byte as depmod writes it.

    Source: kmod, tools/depmod.c, index_insert and index_write.

    Args:
        entries: (key, value, priority) in the order in which depmod adds them. They have no NUL.
            Those that are not ASCII are left out: nobody can request them from modprobe.
    """
    root = _Node()
    for key, value, priority in entries:
        if key.isascii() and value.isascii():
            _insert(root, key.encode(), priority, value.encode())
    out = bytearray(_HEADER.size)
    place = _write(root, out)
    _HEADER.pack_into(out, 0, _MAGIC, _VERSION, place)
    return bytes(out)


def _insert(node: _Node, key: bytes, priority: int, value: bytes) -> None:
    at = 0
    while True:
        same = _same_length(node.prefix, key, at)
        if same < len(node.prefix):
            rest = _Node(node.prefix[same + 1 :], node.values, node.children)
            node.children = {node.prefix[same]: rest}
            node.values = []
            node.prefix = node.prefix[:same]
        at += same
        if at == len(key):
            _add_value(node, priority, value)
            return
        child = node.children.get(key[at])
        if child is None:
            node.children[key[at]] = _Node(key[at + 1 :], [(priority, value)])
            return
        node, at = child, at + 1


def _same_length(prefix: bytes, key: bytes, at: int) -> int:
    if key.startswith(prefix, at):
        return len(prefix)
    return next(
        number
        for number, byte in enumerate(prefix)
        if at + number >= len(key) or key[at + number] != byte
    )


def _add_value(node: _Node, priority: int, value: bytes) -> None:
    """Put a value before those that have its priority, as kmod does."""
    number = 0
    while number < len(node.values) and node.values[number][0] < priority:
        number += 1
    node.values.insert(number, (priority, value))


def _write(root: _Node, out: bytearray) -> int:
    """Write nodes, children first, and return the root's place."""
    places: dict[int, int] = {}
    stack = [(root, iter(sorted(root.children)))]
    while stack:
        node, keys = stack[-1]
        key = next(keys, None)
        if key is not None:
            child = node.children[key]
            stack.append((child, iter(sorted(child.children))))
            continue
        stack.pop()
        places[id(node)] = _write_node(node, places, out)
    return places[id(root)]


def _write_node(node: _Node, places: dict[int, int], out: bytearray) -> int:
    place = len(out)
    if node.prefix:
        place |= _PREFIX
        out += node.prefix + b"\0"
    if node.children:
        place |= _CHILDREN
        first, last = min(node.children), max(node.children)
        out += bytes((first, last))
        for key in range(first, last + 1):
            child = node.children.get(key)
            out += struct.pack(">I", 0 if child is None else places.pop(id(child)))
    if node.values:
        place |= _VALUES
        out += struct.pack(">I", len(node.values))
        for priority, value in node.values:
            out += struct.pack(">I", priority) + value + b"\0"
    return place
