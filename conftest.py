"""What all tests of this repository share."""

from __future__ import annotations

import signal
import zlib
from collections import defaultdict

import pytest
from hypothesis import settings

from pytest_kernelvm.config.model import CellConfig

pytest_plugins = ["pytester"]

# Without a time limit for an example, as the machine may be busy.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_configure() -> None:
    """Make SIGINT interrupt a run in the background too, which begins with ignoring it.

    What tests start inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that only this repository has."""
    parser.addoption(
        "--spread",
        action="store_true",
        help="run each slow test on one cell of each ARCH=, other ones for other tests; "
        "those marked spread(NAME) go together, those marked every_cell have all, those marked "
        "any_cell one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the cells of slow tests where they are to be spread."""
    if not config.getoption("--spread"):
        return
    groups: dict[tuple[str, str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        cell = _cell(item)
        if cell and item.get_closest_marker("slow") and not item.get_closest_marker("every_cell"):
            together = item.get_closest_marker("spread")
            name_of_cell = cell if isinstance(cell, str) else cell.id
            test = item.nodeid.replace(name_of_cell, "", 1)
            name = together.args[0] if together else test
            kind = "any" if item.get_closest_marker("any_cell") else _kind_of(cell)
            groups[test, name, kind].append(item)
    left_out = set()
    for (_test, name, _kind), alike in groups.items():
        left_out |= {*alike} - {alike[zlib.crc32(name.encode()) % len(alike)]}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=[*left_out])


def _cell(item: pytest.Item) -> CellConfig | str:
    """Return a test's cell, or its id where the test names cells itself; empty for none."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    cell: CellConfig | str = params.get("kernelvm_cell", params.get("config", ""))
    return cell


def _kind_of(cell: CellConfig | str) -> str:
    """Return what cells have in common of which one is enough."""
    return cell.partition("-")[0] if isinstance(cell, str) else cell.arch.linux_arch
