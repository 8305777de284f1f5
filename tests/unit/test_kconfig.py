"""Kernel configuration: what is asked for, what came out, what was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.config import Requested
from pytest_kernelvm.errors import BadInput, ConfigLost, Verdict
from pytest_kernelvm.kernel.kconfig import (
    as_config,
    check_nothing_lost,
    lost,
    merge,
    parse_config,
    read_fragment,
    symbols_defined,
)

FINAL = """\
#
# Automatically generated file; DO NOT EDIT.
# Linux/mips 6.12.30 Kernel Configuration
#
CONFIG_CC_VERSION_TEXT="mips-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0"
CONFIG_MODULES=y
CONFIG_BLK_DEV_LOOP=m
# CONFIG_SWAP is not set
CONFIG_LOG_BUF_SHIFT=17
CONFIG_PHYSICAL_START=0xffffffff80100000
CONFIG_CMDLINE="console=ttyS0 a=\\"b\\""
CONFIG_INITRAMFS_SOURCE=""
# end of General setup
"""


def asked(name: str, value: str, where: str = "test.yaml:7:3") -> Requested:
    return Requested(name=name, value=value, where=where)


def by_name(*requests: Requested) -> dict[str, Requested]:
    return merge(requests)


def test_a_config_is_parsed() -> None:
    assert parse_config(FINAL) == {
        "CC_VERSION_TEXT": '"mips-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0"',
        "MODULES": "y",
        "BLK_DEV_LOOP": "m",
        "LOG_BUF_SHIFT": "17",
        "PHYSICAL_START": "0xffffffff80100000",
        "CMDLINE": '"console=ttyS0 a=\\"b\\""',
        "INITRAMFS_SOURCE": '""',
    }


def test_a_fragment_is_read_with_its_lines(tmp_path: Path) -> None:
    fragment = tmp_path / "a.config"
    fragment.write_text(
        "# A comment\n\nCONFIG_A=y\n  CONFIG_B=m  \n# CONFIG_C is not set\nCONFIG_D=n\n"
        '#CONFIG_E=y\nCONFIG_F="a b"\nCONFIG_6LOWPAN=m\nCONFIG_NLS_ISO8859_1=y'
    )
    assert read_fragment(fragment) == (
        asked("A", "y", f"{fragment}:3"),
        asked("B", "m", f"{fragment}:4"),
        asked("C", "n", f"{fragment}:5"),
        asked("D", "n", f"{fragment}:6"),
        asked("F", '"a b"', f"{fragment}:8"),
        asked("6LOWPAN", "m", f"{fragment}:9"),
        asked("NLS_ISO8859_1", "y", f"{fragment}:10"),
    )


@pytest.mark.parametrize("line", ["MODULES=y", "CONFIG_A y", "CONFIG_A-B=y", "CONFIG_=y", "y"])
def test_a_line_that_is_none_is_told_with_its_place(line: str, tmp_path: Path) -> None:
    fragment = tmp_path / "a.config"
    fragment.write_text(f"CONFIG_A=y\n# fine\n{line}\n")
    with pytest.raises(BadInput) as bad:
        read_fragment(fragment)
    assert bad.value.summary == f"not a line of a .config: {line!r}"
    assert bad.value.evidence.where == (f"{fragment}:3",)


def test_later_requests_win() -> None:
    merged = merge([asked("A", "y", "a:1"), asked("B", "m", "a:2"), asked("A", "n", "b:1")])
    assert merged == {"A": asked("A", "n", "b:1"), "B": asked("B", "m", "a:2")}


def test_requests_survive_being_written_and_read(tmp_path: Path) -> None:
    requests = by_name(
        asked("B", "m"),
        asked("A", "y"),
        asked("C", "n"),
        asked("D", '"two words"'),
        asked("E", "0x8000"),
        asked("F", '""'),
    )
    fragment = tmp_path / "all.config"
    fragment.write_text(as_config(requests))
    again = merge(read_fragment(fragment))
    assert {name: request.value for name, request in again.items()} == {
        name: request.value for name, request in requests.items()
    }
    assert as_config(again) == as_config(requests)
    assert parse_config(as_config(requests)) == {
        name: request.value for name, request in requests.items() if request.value != "n"
    }
    assert as_config({}) == ""


@pytest.mark.parametrize(
    ("value", "final", "is_lost"),
    [
        ("y", {"A": "y"}, False),
        ("m", {"A": "m"}, False),
        ("n", {}, False),
        ("n", {"A": "n"}, False),
        ('""', {"A": '""'}, False),
        ("17", {"A": "17"}, False),
        ("y", {}, True),
        ("y", {"A": "m"}, True),
        ("m", {"A": "y"}, True),
        ("n", {"A": "y"}, True),
        ("17", {"A": "14"}, True),
        ('"a"', {"A": '"b"'}, True),
    ],
)
def test_what_is_lost(value: str, final: dict[str, str], is_lost: bool) -> None:
    request = asked("A", value)
    assert lost(by_name(request), {"OTHER": "y", **final}) == ((request,) if is_lost else ())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The Kconfig files of a kernel tree; what is below drivers/nothing is a directory's name."""
    (tmp_path / "drivers" / "Kconfig.d").mkdir(parents=True)
    (tmp_path / "Kconfig").write_text('mainmenu "Linux"\nsource "drivers/Kconfig"\n')
    (tmp_path / "drivers" / "Kconfig").write_text(
        "config USB_STORAGE\n\ttristate\nmenuconfig BLK_DEV\n\tbool\n  config\tINDENTED\n"
    )
    (tmp_path / "drivers" / "Kconfig.debug").write_text("config DEBUG\n\tbool\n")
    (tmp_path / "drivers" / "Makefile").write_text("config NO_KCONFIG\n")
    return tmp_path


def test_defined_symbols(tree: Path) -> None:
    names = ["USB_STORAGE", "BLK_DEV", "INDENTED", "DEBUG", "NO_KCONFIG", "USB", "B.K_DEV"]
    assert symbols_defined(tree, names) == {"USB_STORAGE", "BLK_DEV", "INDENTED", "DEBUG"}


def test_lost_symbols_are_listed_with_who_asked(tree: Path) -> None:
    requests = by_name(
        asked("USB_STORAGE", "m", "vm-configs/malta.yaml:9:5"),
        asked("DEBUG", "n", "fragments/base.config:3"),
        asked("KEPT", "y"),
        asked("NO_SUCH", "y", "fragments/base.config:4"),
    )
    with pytest.raises(ConfigLost) as failed:
        check_nothing_lost(requests, {"KEPT": "y", "DEBUG": "y"}, tree=tree, label="malta-6.12")
    assert failed.value.verdict is Verdict.CONFIG_LOST
    assert failed.value.summary == "3 symbols of malta-6.12 did not survive olddefconfig"
    assert failed.value.evidence.excerpt.splitlines() == [
        "DEBUG        requested n, got y  (fragments/base.config:3)",
        "NO_SUCH      requested y, got no such symbol here  (fragments/base.config:4)",
        "USB_STORAGE  requested m, got n  (vm-configs/malta.yaml:9:5)",
    ]


def test_one_lost_symbol_is_one(tree: Path) -> None:
    with pytest.raises(ConfigLost, match=r"1 symbol of malta-6\.12 did"):
        check_nothing_lost(by_name(asked("DEBUG", "y")), {}, tree=tree, label="malta-6.12")


def test_nothing_lost_is_no_error(tmp_path: Path) -> None:
    requests = by_name(asked("A", "y"), asked("B", "n"))
    check_nothing_lost(requests, {"A": "y"}, tree=tmp_path / "not read", label="malta-6.12")
    with pytest.raises(ConfigLost):
        check_nothing_lost(requests, {"B": "y"}, tree=tmp_path, label="malta-6.12")
