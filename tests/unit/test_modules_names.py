"""Names, patterns and aliases, the patterns against the C library's fnmatch(3)."""

from __future__ import annotations

import ctypes
import re
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.aliases import AliasIndex
from pytest_kernelvm.modules.names import checked_name, name_of_file, normalise, pattern_regex

LIBC = ctypes.CDLL(None)
PLACE = Path("modules.alias")


def index(*lines: str) -> AliasIndex:
    """Return the index of some `PATTERN MODULE` lines."""
    return AliasIndex(PLACE, "".join(f"alias {line}\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        pytest.param("nft-ct", "nft_ct", id="case13-dash"),
        pytest.param("snd_hda-codec-hdmi", "snd_hda_codec_hdmi", id="case13-mixed"),
        pytest.param("usb:v0[0-9]d-1", "usb:v0[0-9]d_1", id="case13-dash-inside-brackets"),
        pytest.param("a-[b-c]-[d-e]-f", "a_[b-c]_[d-e]_f", id="case15-two-classes"),
        pytest.param("mt8188-mt6359 soc card", "mt8188_mt6359 soc card", id="case16-blanks"),
    ],
)
def test_normalise(name: str, normal: str) -> None:
    assert normalise(name) == normal


@pytest.mark.parametrize("name", ["a[b", "a]b", "a[b]c]", "a[b[c]d", "["])
def test_open_brackets_are_refused(name: str) -> None:
    if name == "a[b[c]d":
        # kmod closes a class at the first ], so that this is one class of "b[c".
        assert normalise(name) == name
    else:
        with pytest.raises(BadInput, match="without a partner"):
            normalise(name)


@given(st.text("abz09_-", min_size=1))
def test_a_file_has_the_name_of_its_module(name: str) -> None:
    normal = normalise(name)
    assert normalise(normal) == normal == name_of_file(f"kernel/net/{name}.ko.xz")
    assert checked_name(name) == normal


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("foo.ko", "write 'foo'", id="case20-ko"),
        pytest.param("foo-bar.ko.zst", "write 'foo_bar'", id="case20-ko-zst"),
        pytest.param("./kernel/net/foo.ko.gz", "write 'foo'", id="case20-path"),
        pytest.param("net/foo", "write 'foo'", id="case20-directory"),
        pytest.param("", "blanks", id="empty"),
        pytest.param(" foo", "blanks", id="blank-in-front"),
        pytest.param("foo\n", "blanks", id="newline"),
        pytest.param("foo\nbar", "blanks", id="newline-inside"),
        pytest.param("foo[", "closed by a ]", id="open-bracket"),
    ],
)
def test_invalid_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(BadInput) as error:
        checked_name(name)
    assert hint in str(error.value)


@pytest.mark.parametrize("name", ["nft-ct", "devname:net/tun", "fs-ext4", "xt_TCPMSS", "a b"])
def test_valid_names(name: str) -> None:
    assert checked_name(name) == name.replace("-", "_")


MEMBERS = st.text("abc-!^_[*?", min_size=1, max_size=4).filter(lambda text: text not in "!^")
CLASSES = st.builds("[{}]".format, MEMBERS)
PATTERNS = st.lists(CLASSES | st.text("ab-_*?!^", max_size=4), max_size=4).map("".join)


@given(PATTERNS, st.text("abc-_!^[", max_size=8))
def test_patterns_match_as_fnmatch_does(pattern: str, text: str) -> None:
    expected = LIBC.fnmatch(pattern.encode(), text.encode(), 0) == 0
    assert bool(pattern_regex(pattern).fullmatch(text)) == expected


@given(st.text("ab*?\\", max_size=10), st.text("ab*?\\", max_size=10))
def test_backslash_quotes(pattern: str, text: str) -> None:
    assume(not re.search(r"(?<!\\)(\\\\)*\\$", pattern))
    expected = LIBC.fnmatch(pattern.encode(), text.encode(), 0) == 0
    assert bool(pattern_regex(pattern).fullmatch(text)) == expected


def test_many_stars_take_no_exponential_time() -> None:
    started = time.process_time()
    assert not pattern_regex("*a" * 60 + "b").fullmatch("a" * 3000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("lines", "name", "modules"),
    [
        pytest.param(["fs-ext4 ext4"], "fs_ext4", ("ext4",), id="case13-dash"),
        pytest.param(
            ["usb:v152Dp0567d011[4-7]dc*dsc* uas", "usb:v152Dp0567d0118dc*dsc* ums"],
            "usb:v152Dp0567d0115dc00dsc00",
            ("uas",),
            id="case15-class",
        ),
        pytest.param(["x[a-c]-1 m"], "xb_1", ("m",), id="case15-dash-outside-and-inside"),
        pytest.param(["x[!a-c]* m"], "xd9", ("m",), id="case15-negated"),
        pytest.param(
            ["mt8188-mt6359 soc card mt8188_mt6359"],
            "mt8188_mt6359 soc card",
            ("mt8188_mt6359",),
            id="case16-blanks",
        ),
        pytest.param(["a b m"], "a b", ("m",), id="case16-blank-in-the-head"),
        pytest.param(
            ["sha256 c", "sha* a", "sha256 b", "sha256 c"],
            "sha256",
            ("c", "a", "b"),
            id="case17-several-in-the-order-of-the-lines",
        ),
        pytest.param(["of:N*T*Cbrcm,bcm2835C* m"], "of:NxTyCbrcm,bcm2835C", ("m",), id="of"),
        pytest.param(["of:N*T*Cbrcm,bcm2835 m"], "of:NxTyCbrcm,bcm2711", (), id="of-another"),
        pytest.param(["* all", "?? two", "[x]y xy"], "xy", ("all", "two", "xy"), id="open-heads"),
        pytest.param(["x m"], "x", ("m",), id="short-pattern"),
        pytest.param(["x m"], "xm", (), id="short-pattern-and-longer-name"),
        pytest.param(["a[b m", "a?b n"], "a[b", ("n",), id="open-bracket-never-matches"),
        pytest.param([], "x", (), id="no-aliases"),
    ],
)
def test_alias_lookup(lines: list[str], name: str, modules: tuple[str, ...]) -> None:
    assert index(*lines).lookup(name) == modules


PARTS = st.sampled_from(["ab", "b", "-", "_", "*", "?", "[a-b]", "[!b]", "c", " ", "abcabcabcab"])


@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=5).map("".join), max_size=8),
    st.text("abc-_ ", min_size=1, max_size=8),
)
def test_the_index_finds_what_a_scan_finds(patterns: list[str], name: str) -> None:
    patterns = [pattern for pattern in patterns if pattern == pattern.strip()]
    lines = [f"{pattern} m{number}" for number, pattern in enumerate(patterns)]
    wanted = normalise(name)
    assert index(*lines).lookup(wanted) == tuple(
        f"m{number}"
        for number, pattern in enumerate(patterns)
        if LIBC.fnmatch(normalise(pattern).encode(), wanted.encode(), 0) == 0
    )


def test_a_modalias_is_found_among_26000_wildcards_without_a_scan() -> None:
    patterns = [f"of:N*T*Cvendor{number},device{number}C* m{number}" for number in range(26_000)]
    found = index(*patterns)
    found.lookup("of:NxTyCother,device")
    started = time.process_time()
    for number in range(0, 26_000, 260):
        assert found.lookup(f"of:NxTyCvendor{number},device{number}C") == (f"m{number}",)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "where"),
    [
        pytest.param("# comment\n\nalias a b\nhello\n", "modules.alias:4", id="another-word"),
        pytest.param("hello\n", "modules.alias:1", id="first-line"),
        pytest.param("alias a\n# comment\n", "modules.alias:1", id="no-module"),
        pytest.param("# comment\nalias c d\nalias a\nalias e f\n", "modules.alias:3", id="later"),
    ],
)
def test_lines_that_are_no_aliases(text: str, where: str) -> None:
    with pytest.raises(BadInput) as error:
        AliasIndex(PLACE, text).lookup("a")
    assert error.value.evidence.where == (where,)
    assert "alias PATTERN MODULE" in str(error.value)


def test_comments_between_aliases_are_no_part_of_them() -> None:
    aliases = AliasIndex(PLACE, "# first\nalias a b\n# between\n\nalias c d\n# last\n")
    assert (aliases.lookup("a"), aliases.lookup("c")) == (("b",), ("d",))
