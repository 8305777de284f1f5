"""Kernel versions and ranges of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.config.versions import (
    EVERY_VERSION,
    VersionRange,
    begins_with,
    is_version,
    leading_numbers,
    numbers_of,
    series_of,
    upstream_of,
)
from pytest_kernelvm.errors import BadInput


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("<6.17", ("6.16", "6.16.99", "5.4", "6.2"), ("6.17", "6.17.1", "6.17-rc1", "7.0")),
        (">=5.4,<5.18", ("5.4", "5.4.200", "5.17.15"), ("5.3.18", "5.18", "6.1")),
        (" >= 5.4 , < 5.18 ", ("5.10",), ("5.18",)),
        ("==6.12", ("6.12", "6.12.30", "6.12-rc3"), ("6.1", "6.13", "6.120")),
        ("!=6.12", ("6.1", "6.13"), ("6.12.117",)),
        ("<=6.12", ("6.12.117", "6.1"), ("6.13",)),
        (">6.12", ("6.13", "7.0"), ("6.12.117", "6.12")),
        (">6.12.30", ("6.12.31", "6.13"), ("6.12.30", "6.12", "6.12.4")),
        ("<7", ("6.99",), ("7.0", "7.2.1")),
        ("", ("0.1", "7.2"), ()),
    ],
)
def test_versions_inside_and_outside_a_range(
    text: str, inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    versions = VersionRange(text)
    assert [version for version in inside if not versions.includes(version)] == []
    assert [version for version in outside if versions.includes(version)] == []


@pytest.mark.parametrize(
    "text", ["6.1", "<", "<six", "=6.1", "<6.1;>5", "<6.1,", "~6.1", "<6.1-rc1"]
)
def test_texts_that_are_no_ranges(text: str) -> None:
    with pytest.raises(BadInput, match="is no range of versions"):
        VersionRange(text)


def test_a_text_that_is_no_version() -> None:
    with pytest.raises(BadInput, match="'next' is no kernel version"):
        VersionRange("<6.1").includes("next")


_VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=3).map(
    lambda numbers: ".".join(map(str, numbers))
)


@given(version=_VERSIONS, bound=_VERSIONS)
def test_a_bound_divides_all_versions_in_two(version: str, bound: str) -> None:
    for one, other in (("<", ">="), ("<=", ">"), ("==", "!=")):
        includes = VersionRange(f"{one}{bound}").includes(version)
        assert includes != VersionRange(f"{other}{bound}").includes(version)
    assert EVERY_VERSION.includes(version)


@pytest.mark.parametrize(
    ("text", "may", "beyond"),
    [
        (">=6.12.30", True, ">=6.12.30"),
        ("<6.12.30", True, "<6.12.30"),
        ("==6.12.30", True, "==6.12.30"),
        ("!=6.12.30", True, "!=6.12.30"),
        (">=6.13.1", False, ">=6.13.1"),
        ("<6.11.9", False, "<6.11.9"),
        (">=6.1,<6.12.30", True, "<6.12.30"),
        (">=6.1,<6.17", True, ""),
        ("", True, ""),
    ],
)
def test_bounds_that_the_beginning_of_a_version_decides(text: str, may: bool, beyond: str) -> None:
    assert VersionRange(text).may_include("6.12") is may
    assert VersionRange(text).beyond("6.12").text == beyond


@given(version=_VERSIONS, bound=_VERSIONS, last=st.integers(0, 30))
def test_a_version_in_a_range_may_be_in_it_by_its_beginning(
    version: str, bound: str, last: int
) -> None:
    for sign in ("<", "<=", ">", ">=", "==", "!="):
        versions = VersionRange(f"{sign}{bound}")
        if versions.includes(f"{version}.{last}"):
            assert versions.may_include(version)
        if not versions.beyond(version).text:
            assert versions.includes(f"{version}.{last}") == versions.may_include(version)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("6.12.30", (6, 12, 30)),
        ("6.12-rc3", (6, 12)),
        ("6.1.0-10-arm64", (6, 1, 0)),
        ("6.12.tar.xz", (6, 12)),
        (" 6.10\n", (6, 10)),
        ("next", ()),
        (".6", ()),
    ],
)
def test_the_numbers_that_a_text_begins_with(text: str, numbers: tuple[int, ...]) -> None:
    assert leading_numbers(text) == numbers
    if numbers:
        assert numbers_of(text) == numbers


def test_texts_that_are_versions() -> None:
    assert all(is_version(text) for text in ("6.12", "6.12.30", "6.12-rc3", "6.6.1-rt1+"))
    assert not any(is_version(text) for text in ("6", "six", "v6.12", "6.12/x", "malta-6.12"))


def test_a_version_belongs_to_a_series() -> None:
    assert (series_of("6.12.30"), series_of("6.12-rc3")) == ("6.12", "6.12")
    with pytest.raises(BadInput, match="'next' is no kernel version"):
        series_of("next")
    assert begins_with("6.12.30", "6.12")
    assert begins_with("6.12", "6.12")
    assert not begins_with("6.12.30", "6.1")
    assert not begins_with("6.12", "6.12.30")


@pytest.mark.parametrize("version", ["6.12.30-1", "6.12.30-1~bpo12+1", "6.12.30~rc1", "6.12.30"])
def test_the_version_of_a_debian_package(version: str) -> None:
    assert upstream_of(version) == "6.12.30"
