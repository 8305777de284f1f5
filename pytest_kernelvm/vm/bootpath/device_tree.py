"""Flat device trees: what is changed in them before a kernel gets them. Needs pylibfdt.

A change may make a tree longer, so whoever places something behind it asks for its final size
(vm/bootpath/layout.py).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing

# What a flat tree begins with.
MAGIC = b"\xd0\x0d\xfe\xed"
# How much room a change gets at first; it gets twice as much until it fits.
ROOM_BYTES = 4096
# What a property may be set to.
Value = bytes | str | int | tuple[int, ...] | bool


def set_property(tree: bytes, path: str, name: str, value: Value) -> bytes:
    """Return a tree with a property set.

    Raises BadInput if it is no tree, ToolMissing without pylibfdt.

    Args:
        tree: A flat device tree.
        path: The path of a node; its last parts are made if they are not there.
        name: The property.
        value: Bytes as they are, a text, numbers as 32-bit cells, or True for a property without a
            value.
    """

    def change(fdt: Any) -> None:
        fdt.setprop(_obtain_node(fdt, path), name, _encoded(value))

    return _edited(tree, change)


def remove_property(tree: bytes, path: str, name: str) -> bytes:
    """Return a tree without a property, which need not be there; raises as `set_property` does.

    Args:
        tree: A flat device tree.
        path: The path of a node.
        name: The property.
    """
    if get_property(tree, path, name) is None:
        return tree
    return _edited(tree, lambda fdt: fdt.delprop(fdt.path_offset(path), name))


def tree_in(image: bytes) -> bytes:
    """Return the first device tree that lies somewhere in an image, such as a kernel's own.

    Raises ToolMissing without pylibfdt.

    Args:
        image: What is searched.

    Raises:
        BadInput: There is none.
    """
    libfdt = _libfdt()
    at = image.find(MAGIC)
    while at >= 0:
        size = int.from_bytes(image[at + 4 : at + 8], "big")
        with contextlib.suppress(libfdt.FdtException, ValueError):
            fdt = libfdt.Fdt(image[at : at + size])
            fdt.getprop(0, "compatible")
            return bytes(fdt.as_bytearray())
        at = image.find(MAGIC, at + 1)
    raise BadInput(
        "there is no device tree in the kernel's image",
        Evidence(expected="one that is built in, as a Malta's kernel has"),
    )


def reserve(
    tree: bytes, name: str, address: int, size_bytes: int, *, compatible: str = "phram"
) -> bytes:
    """Return a tree with a node in /reserved-memory, which the kernel does not use.

    Cells are as wide as the root says, else 32 bits for sizes and 64 for addresses. Raises as
    `set_property` does.

    Args:
        tree: A flat device tree.
        name: The node's name, without its address.
        address: The physical address of the first byte.
        size_bytes: How much is reserved.
        compatible: Which driver it is for.
    """
    changed = tree
    widths = _root_cells(tree)
    for cell, width in zip(("#address-cells", "#size-cells"), widths, strict=True):
        changed = set_property(changed, "/reserved-memory", cell, width)
    changed = set_property(changed, "/reserved-memory", "ranges", True)
    node = f"/reserved-memory/{name}@{address:x}"
    cells = (*_cells(address, widths[0]), *_cells(size_bytes, widths[1]))
    changed = set_property(changed, node, "reg", cells)
    return set_property(changed, node, "compatible", compatible)


def get_property(tree: bytes, path: str, name: str) -> bytes | None:
    """Return a property's bytes, None if there is none; raises as `set_property` does."""
    libfdt = _libfdt()
    fdt = _open(tree)
    try:
        return bytes(fdt.getprop(fdt.path_offset(path), name))
    except libfdt.FdtException as error:
        if error.err == -libfdt.NOTFOUND:
            return None
        raise _no_tree(error) from None


def _edited(tree: bytes, change: Callable[[Any], None]) -> bytes:
    libfdt = _libfdt()
    room = ROOM_BYTES
    while True:
        fdt = _open(tree)
        try:
            fdt.resize(fdt.totalsize() + room)
            change(fdt)
            fdt.pack()
        except libfdt.FdtException as error:
            if error.err != -libfdt.NOSPACE:
                raise _no_tree(error) from None
            room *= 2
        else:
            return bytes(fdt.as_bytearray())[: fdt.totalsize()]


def _open(tree: bytes) -> Any:
    libfdt = _libfdt()
    try:
        return libfdt.Fdt(tree)
    except libfdt.FdtException as error:
        raise _no_tree(error) from None


def _obtain_node(fdt: Any, path: str) -> int:
    """Return the offset of a node, made with its parents if need be."""
    libfdt = _libfdt()
    at = 0
    for name in filter(None, path.split("/")):
        below = fdt.subnode_offset(at, name, libfdt.QUIET_NOTFOUND)
        at = fdt.add_subnode(at, name) if below < 0 else below
    return int(at)


def _encoded(value: Value) -> bytes:
    match value:
        case bool():
            return b""
        case bytes():
            return value
        case str():
            return value.encode() + b"\0"
        case int():
            return value.to_bytes(4, "big")
        case _:
            return b"".join(cell.to_bytes(4, "big") for cell in value)


def _root_cells(tree: bytes) -> tuple[int, int]:
    found = (get_property(tree, "/", name) for name in ("#address-cells", "#size-cells"))
    # Devicetree specification, 2.3.5: these values hold where none are given.
    address, size = (
        usual if raw is None else int.from_bytes(raw, "big")
        for raw, usual in zip(found, (2, 1), strict=True)
    )
    return address, size


def _cells(value: int, width: int) -> tuple[int, ...]:
    return tuple(value >> 32 * place & 0xFFFFFFFF for place in reversed(range(width)))


def _no_tree(error: Exception) -> BadInput:
    return BadInput(
        f"libfdt refuses the device tree: {error}",
        Evidence(expected="a flat device tree, as dtc makes them"),
    )


def _libfdt() -> Any:
    try:
        return importlib.import_module("libfdt")
    except ImportError:
        raise ToolMissing(
            "device trees are edited with libfdt, which is not installed",
            Evidence(next_step="pip install 'pytest-kernelvm[device-tree]'"),
        ) from None
