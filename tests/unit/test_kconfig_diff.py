"""Differences between configurations, and the fragment that makes one into another."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.kernel.kconfig.diff import (
    ComparedConfig,
    SymbolChange,
    diff_configs,
    diff_text,
)
from pytest_kernelvm.kernel.kconfig.dot_config import as_config
from pytest_kernelvm.kernel.kconfig.edit import changed_values, smallest_fragment

OLD = ComparedConfig(
    label="malta-6.1",
    text='CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_GONE=m\nCONFIG_NAME="x"\nCONFIG_SHIFT=0x0F\n',
    names=frozenset({"A", "B", "C", "GONE", "NAME", "SHIFT"}),
    requests={"B": Requested(name="B", value="n", where="a:1")},
)
NEW = ComparedConfig(
    label="malta-6.12",
    text='CONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_NEW is not set\nCONFIG_NAME="y"\n'
    "CONFIG_SHIFT=0xf\n",
    names=frozenset({"A", "B", "C", "NEW", "NAME", "SHIFT"}),
    requests={},
)


def change(name: str, before: str, after: str) -> SymbolChange:
    return SymbolChange(name=name, before=before, after=after)


def test_what_differs() -> None:
    found = diff_configs(OLD, NEW)
    assert found.gone == (change("GONE", "m", ""),)
    assert found.new == (change("NEW", "", "n"),)
    assert found.requested == (change("B", "n", "y"),)
    # C is n on both sides, whether in sight or not; 0x0F is 0xf.
    assert found.unrequested == (change("A", "y", "n"), change("NAME", '"x"', '"y"'))


def test_the_other_way_round_is_the_mirror_image() -> None:
    there, back = diff_configs(OLD, NEW), diff_configs(NEW, OLD)
    assert [each.name for each in there.new] == [each.name for each in back.gone]
    assert [(each.name, each.after, each.before) for each in there.unrequested] == [
        (each.name, each.before, each.after) for each in back.unrequested
    ]


def test_without_kconfig_files_nothing_is_new_or_gone() -> None:
    """Without Kconfig files a symbol that is not there is n."""
    one = ComparedConfig(label="a", text="CONFIG_A=y\n", names=None, requests={})
    other = ComparedConfig(label="b", text="CONFIG_B=m\n", names=None, requests={})
    found = diff_configs(one, other)
    assert (found.new, found.gone) == ((), ())
    assert found.unrequested == (change("A", "y", "n"), change("B", "n", "m"))
    assert not diff_configs(one, one)


def test_a_difference_is_shown() -> None:
    assert diff_text(diff_configs(OLD, NEW), OLD, NEW).splitlines() == [
        "gone: malta-6.12 does not define them (1)",
        "  GONE  m",
        "",
        "new: malta-6.1 does not define them (1)",
        "  NEW  n",
        "",
        "asked for (1)",
        "  B  n -> y",
        "",
        "changed with others, or by default (2)",
        "  A     y -> n",
        '  NAME  "x" -> "y"',
    ]
    assert diff_text(diff_configs(OLD, OLD), OLD, OLD) == "malta-6.1 and malta-6.1 say the same"


# Fragments

# Who brings whom along.
FOLLOWS = {"B": "A", "C": "B", "F": "E", "H": "G"}


def conf(requested: Mapping[str, str]) -> str:
    """What a conf makes of a fragment where each symbol follows another unless it is asked for."""
    values: dict[str, str] = {}
    for name in "ABCDEFGH":
        values[name] = requested.get(name) or values.get(FOLLOWS.get(name, ""), "n")
    return as_config(values)


def test_the_smallest_fragment_leaves_out_what_others_set() -> None:
    before = conf({})
    assert smallest_fragment(before, conf({"A": "y", "D": "m"}), conf) == {"A": "y", "D": "m"}
    assert smallest_fragment(before, conf({"A": "y", "B": "m"}), conf) == {"A": "y", "B": "m"}
    assert smallest_fragment(before, before, conf) == {}


@given(st.dictionaries(st.sampled_from("ABCDEFGH"), st.sampled_from(["y", "m"])))
def test_a_fragment_reproduces_what_was_done(done: Mapping[str, str]) -> None:
    before, after = conf({}), conf(done)
    fragment = smallest_fragment(before, after, conf)
    assert changed_values(conf(fragment), after) == {}
    # No single symbol can be spared.
    for name in fragment:
        fewer = {other: value for other, value in fragment.items() if other != name}
        assert changed_values(conf(fewer), after) != {}


def test_a_config_that_conf_does_not_reach_gives_all_changes() -> None:
    """An edited file may hold what olddefconfig takes back; then nothing is left out."""
    after = "CONFIG_A=y\nCONFIG_IMPOSSIBLE=y\n"
    assert smallest_fragment(conf({}), after, conf) == {"A": "y", "IMPOSSIBLE": "y"}
