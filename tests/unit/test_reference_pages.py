"""The generated pages of the plugin: what is checked in is what the code says now."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.generate import marker_and_fixtures, options
from pytest_kernelvm.plugin.short_fixtures import NAMES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(
    ("file", "page"),
    [("marker-and-fixtures.md", marker_and_fixtures.page), ("options.md", options.page)],
)
def test_a_generated_page_is_up_to_date(file: str, page: Callable[[], str]) -> None:
    written = (REFERENCE / file).read_text()
    assert written == page(), f"docs/reference/{file} is stale; write it with: make reference"


def test_the_page_of_options_has_what_pytest_takes(pytester: pytest.Pytester) -> None:
    usage = pytester.parseconfig()._parser.optparser.format_help()
    page = (REFERENCE / "options.md").read_text()
    declared = re.findall(r"--kernelvm-\w+|\bkernelvm_\w+", usage)
    assert len(declared) > 10
    assert {*declared} <= {*re.findall(r"--kernelvm-\w+|\bkernelvm_\w+", page)}


def test_the_page_of_fixtures_has_all_short_names() -> None:
    page = (REFERENCE / "marker-and-fixtures.md").read_text()
    for name in NAMES:
        assert f"### `{name}`, `kernelvm_{name}`" in page
