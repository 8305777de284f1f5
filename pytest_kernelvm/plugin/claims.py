"""Which tests use the plugin's own fixtures; these are found by definition, not by name.

Other projects and plugins have fixtures and parameters with the names `cell`, `vm` or `kernel` too.
The plugin leaves their tests alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest

# Every fixture that has to do with one kernel needs this one; its parameters are the cells.
CELL = "kernelvm_cell"
VM = "kernelvm_vm"
_HOMES = ("pytest_kernelvm.plugin.fixtures", "pytest_kernelvm.plugin.short_fixtures")


def is_ours(definition: Any) -> bool:
    """Return whether the plugin defines a fixture.

    Args:
        definition: pytest's FixtureDef.
    """
    return getattr(definition.func, "__module__", None) in _HOMES


def uses(item: pytest.Item, fixture: str) -> bool:
    """Return whether a test uses a fixture of the plugin, directly or through other fixtures.

    What a test asks for while it runs (`request.getfixturevalue`) does not count: it is not known
    when the test is collected.

    Args:
        item: The test.
        fixture: The `kernelvm_` name of the fixture. A fixture with that name that somebody else
            defines counts only if it uses the plugin's.

    Returns:
        Whether the test needs the fixture.
    """
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return False
    definitions = info.name2fixturedefs.values()
    if not any(is_ours(each) for chain in definitions for each in chain):
        return False
    walk = _Walk(item, info)
    for name in info.initialnames:
        walk.visit(name)
    return fixture in walk.ours


def parametrized_by_others(item: pytest.Item, name: str) -> bool:
    """Return whether a marker `parametrize` of a test gives an argument its values.

    Args:
        item: The test; the plugin's own parametrization does not count.
        name: The argument.
    """
    for marker in item.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs.get("argnames", ())
        listed = names.split(",") if isinstance(names, str) else names
        if name in [each.strip() for each in listed]:
            return True
    return False


class _Walk:
    """Follows a test's fixtures to what they need, as pytest does when it sets them up.

    A fixture that uses one of its own name gets the one that it overrides. pytest's own list
    (`names_closure`) ends at such a fixture before pytest 9.

    Attributes:
        ours: The `kernelvm_` names of the plugin's fixtures that were reached.
    """

    def __init__(self, item: pytest.Item, info: Any) -> None:
        self._item = item
        self._info = info
        self._depth: dict[str, int] = {}
        self._seen: set[tuple[str, int]] = set()
        self.ours: set[str] = set()

    def visit(self, name: str) -> None:
        """Visit a fixture; if it is being visited already, the one that it overrides."""
        chain = self._definitions(name)
        depth = self._depth.get(name, 0) + 1
        if depth > len(chain) or (name, depth) in self._seen:
            return
        self._seen.add((name, depth))
        definition = chain[-depth]
        if is_ours(definition):
            self.ours.add(definition.func.__name__)
        self._depth[name] = depth
        for needed in definition.argnames:
            self.visit(needed)
        self._depth[name] = depth - 1

    def _definitions(self, name: str) -> Sequence[Any]:
        known = self._info.name2fixturedefs.get(name)
        if known is not None:
            found: Sequence[Any] = known
        elif name in self._info.initialnames or parametrized_by_others(self._item, name):
            # The test itself gives the value.
            found = ()
        else:
            manager: Any = self._item.session._fixturemanager
            # pytest 8.0 takes the id of the test, later versions take the test.
            by_id = "nodeid" in inspect.signature(manager.getfixturedefs).parameters
            found = manager.getfixturedefs(name, self._item.nodeid if by_id else self._item) or ()
        return found
