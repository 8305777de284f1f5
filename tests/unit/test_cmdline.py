"""Whose words a command line is made of: lines as kernels composed them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.session.cmdline import BOOTLOADER, BUILTIN, TREE, UNKNOWN, take_apart

BASE = "console=ttyS0 panic=-1"
SOURCES = {
    BOOTLOADER: f"rd_start=0x80800000 rd_size=4096 {BASE} liminix said.by=bootloader",
    BUILTIN: f"{BASE} said.by=builtin",
    TREE: "said.by=tree",
}


def lines(*names: str) -> str:
    return " ".join(SOURCES[name] for name in names)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (BOOTLOADER,),
        (BUILTIN,),
        (BUILTIN, BOOTLOADER),
        (BOOTLOADER, BUILTIN),
        (TREE, BUILTIN),
        (TREE, BOOTLOADER, BUILTIN),
    ],
    ids=lambda names: "+".join(names) or "nobody",
)
def test_lines_of_sources_that_are_whole(names: tuple[str, ...]) -> None:
    found = take_apart(lines(*names), SOURCES)
    assert found.sources == names
    assert [" ".join(part.words) for part in found.contributions] == [
        SOURCES[name] for name in names
    ]


def test_a_word_that_the_board_adds() -> None:
    """As malta-init.c adds one where there is no console=."""
    found = take_apart("quiet a.b=c console=ttyS0,38400n8r said.by=tree", SOURCES)
    assert found.sources == (UNKNOWN, TREE)
    assert found.contributions[0].words == ("quiet", "a.b=c", "console=ttyS0,38400n8r")


def test_a_line_that_was_cut_off() -> None:
    found = take_apart(f"{SOURCES[BUILTIN]} rd_start=0x80800000 rd_size=4096", SOURCES)
    assert found.sources == (BUILTIN, BOOTLOADER)


def test_a_composition_in_words() -> None:
    assert str(take_apart("said.by=tree odd", SOURCES)) == "device tree: said.by=tree\nunknown: odd"
    assert str(take_apart("", SOURCES)) == "nobody contributed a word"


@given(st.lists(st.sampled_from([*SOURCES[BOOTLOADER].split(), *SOURCES[TREE].split(), "odd"])))
def test_no_word_is_lost_or_invented(words: list[str]) -> None:
    found = take_apart(" ".join(words), SOURCES)
    assert [word for part in found.contributions for word in part.words] == words
    for part in found.contributions:
        if part.source != UNKNOWN:
            assert " ".join(part.words) in SOURCES[part.source]
