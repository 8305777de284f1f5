"""Kernel configuration: what is asked for, what came out, what was lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.requests import Requested, symbol_value
from pytest_kernelvm.config.typed_yaml.expected import PlacedText
from pytest_kernelvm.config.typed_yaml.mistakes import Place
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.kernel.kconfig.dot_config import (
    as_config,
    lost_requests,
    not_set,
    parse_config,
    same_value,
    well_formed,
)
from pytest_kernelvm.kernel.kconfig.requests import (
    conditionals_of,
    merge,
    read_fragment,
    requests_key,
    requests_of,
)
from pytest_kernelvm.kernel.kconfig.session import tristates

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


def asked(
    name: str,
    value: str,
    where: str = "test.yaml:7:3",
    *,
    optional: bool = False,
    force: bool = False,
) -> Requested:
    return Requested(name=name, value=value, where=where, optional=optional, force=force)


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


@pytest.mark.parametrize("value", ["yes", "", '"a', 'a"', '"a"b"', '"a\\"', "1.5"])
def test_a_value_that_conf_cannot_read_is_reported(value: str, tmp_path: Path) -> None:
    fragment = tmp_path / "a.config"
    fragment.write_text(f"\nCONFIG_A={value}\n")
    with pytest.raises(BadInput, match=re.escape(f"not a value of a .config: {value}")) as bad:
        read_fragment(fragment)
    assert bad.value.evidence.where == (f"{fragment}:2",)


@pytest.mark.parametrize("line", ["MODULES=y", "CONFIG_A y", "CONFIG_A-B=y", "CONFIG_=y", "y"])
def test_an_invalid_line_is_reported_with_its_place(line: str, tmp_path: Path) -> None:
    fragment = tmp_path / "a.config"
    fragment.write_text(f"CONFIG_A=y\n# fine\n{line}\n")
    with pytest.raises(BadInput) as bad:
        read_fragment(fragment)
    assert bad.value.summary == f"not a line of a .config: {line!r}"
    assert bad.value.evidence.where == (f"{fragment}:3",)


def test_requests_survive_being_written_and_read(tmp_path: Path) -> None:
    values = {"B": "m", "A": "y", "C": "n", "D": '"two words"', "E": "0x8000", "F": '""'}
    fragment = tmp_path / "all.config"
    fragment.write_text(as_config(values))
    again = {request.name: request.value for request in read_fragment(fragment)}
    assert again == values
    assert as_config(again) == as_config(values)
    assert parse_config(as_config(values)) == {n: v for n, v in values.items() if v != "n"}
    assert not_set(as_config(values)) == {"C"}
    assert as_config({}) == ""


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")))
def test_any_line_of_text_is_a_value(text: str) -> None:
    """Quotes and backslashes are escaped as conf does, whatever stands between them."""
    written = PlacedText(text, Place(file=Path("a.yaml"), line=1, column=1), quoted=True)
    value = symbol_value(written)
    assert well_formed(value)
    assert re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) == text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0x0F", "0xf", True),
        ("0x10", "10", True),
        ("0x10", "16", False),
        ("017", "17", True),
        ("-1", "1", False),
        ("n", '""', True),
        ("y", '"y"', False),
        ("m", "y", False),
        ('"a"', '"a"', True),
        ("abc", "ABC", False),
    ],
)
def test_values_that_mean_the_same(one: str, other: str, same: bool) -> None:
    assert same_value(one, other) is same
    assert same_value(other, one) is same


# Requests


def test_equal_requests_are_merged() -> None:
    first, second = asked("A", "0xF", "a:1"), asked("A", "0x0f", "b:1")
    assert merge([first, second, asked("B", "m", "a:2")]) == {
        "A": first,
        "B": asked("B", "m", "a:2"),
    }


def test_contradicting_requests_are_both_named() -> None:
    with pytest.raises(BadInput) as bad:
        merge(
            [
                asked("A", "y", "a.config:1"),
                asked("IPV6", "y", "a.config:2"),
                asked("IPV6", "m", "malta.yaml:14:11"),
                asked("A", "n", "b.config:7"),
            ]
        )
    assert str(bad.value).splitlines() == [
        "bad-input: 2 symbols are asked for with different values",
        "  expected: one value for each symbol",
        "  | A=y     a.config:1",
        "  | A=n     b.config:7",
        "  | IPV6=y  a.config:2",
        "  | IPV6=m  malta.yaml:14:11",
        "  next: take one of them away, or let one win: in a vm-config's symbols, "
        "A: {value: n, force: true}",
    ]


def test_a_forced_request_wins() -> None:
    forced = asked("A", "m", force=True)
    assert merge([asked("A", "y"), forced, asked("A", "n")]) == {"A": forced}
    with pytest.raises(BadInput, match="let only one of them force"):
        merge([forced, asked("A", "y", force=True)])


def test_a_symbol_may_be_lost_only_if_all_agree() -> None:
    optional, needed = asked("A", "y", optional=True), asked("A", "y", "b:1")
    assert merge([optional]) == {"A": optional}
    assert merge([optional, needed]) == {"A": needed}


def kernel_of(directory: Path, text: str) -> KernelConfig:
    file = directory / "machine.yaml"
    file.write_text(f'arch: mips\nkernel:\n  version: "6.12"\n{text}')
    (cell,) = read_config(file)
    return cell.kernel


def values_of(kernel: KernelConfig, version: str) -> dict[str, str]:
    implied = kernel.symbols[0].where
    return {
        name: each.value
        for name, each in requests_of(kernel, version).items()
        if each.where != implied
    }


def test_symbols_for_some_versions(tmp_path: Path) -> None:
    (tmp_path / "old.config").write_text("CONFIG_OLD=y\nCONFIG_MODE=m\n")
    kernel = kernel_of(
        tmp_path,
        '  fragments: [{file: old.config, versions: "<6.12.30"}]\n'
        "  symbols:\n"
        '    NF_CT_PROTO_DCCP: {value: y, versions: "<6.17"}\n'
        "    MODE:\n"
        '      - {value: m, versions: "<6.5"}\n'
        '      - {value: y, versions: ">=6.12.30"}\n',
    )
    assert values_of(kernel, "6.1.9") == {"OLD": "y", "MODE": "m", "NF_CT_PROTO_DCCP": "y"}
    assert values_of(kernel, "6.12.117") == {"MODE": "y", "NF_CT_PROTO_DCCP": "y"}
    assert values_of(kernel, "6.17-rc1") == {"MODE": "y"}
    # Without a version it is what the vm-config says.
    assert requests_of(kernel) == requests_of(kernel, "6.12.0")


def test_a_fragment_may_be_optional_or_force(tmp_path: Path) -> None:
    (tmp_path / "a.config").write_text("CONFIG_A=y\n")
    (tmp_path / "b.config").write_text("CONFIG_A=n\nCONFIG_B=y\n")
    fragments = "[a.config, {file: b.config, force: true, optional: true}]"
    requests = requests_of(kernel_of(tmp_path, f"  fragments: {fragments}\n"))
    assert (requests["A"].value, requests["A"].optional) == ("n", True)
    assert requests["B"].where == f"{tmp_path / 'b.config'}:2"


def test_conditional_symbols_are_for_versions_too(tmp_path: Path) -> None:
    kernel = kernel_of(
        tmp_path,
        "  conditional:\n"
        "    USB: {USB_STORAGE: m}\n"
        '    NET=y: {IPV6: {value: y, versions: "<6.5"}}\n',
    )
    new = conditionals_of(kernel, "6.12.1")
    assert [(each.name, each.value, [str(symbol) for symbol in each.symbols]) for each in new] == [
        ("USB", "", ["USB_STORAGE=m"]),
        ("NET", "y", []),
    ]


def test_the_key_depends_on_requests_and_not_on_their_places(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for directory, fragment in ((one, "CONFIG_A=y\nCONFIG_B=m\n"), (other, "CONFIG_B=m\n")):
        directory.mkdir()
        (directory / "a.config").write_text(fragment)
    plain = requests_key(kernel_of(one, "  fragments: [a.config]\n"))
    same = requests_key(kernel_of(other, "  fragments: [a.config]\n  symbols: {A: y}\n"))
    assert plain == same
    for change in (
        "  symbols: {A: n}\n",
        '  symbols: {A: {value: y, versions: "<6"}}\n',
        "  symbols: {A: {value: y, optional: true}}\n",
        "  symbols: {A: {value: y, force: true}}\n",
        "  symbols: {A: y, C: y}\n",
        "  symbols: {A: y}\n  auto_modules: true\n",
        "  symbols: {A: y}\n  prefer_builtin: true\n",
        "  symbols: {A: y}\n  conditional: {A: {C: y}}\n",
    ):
        assert requests_key(kernel_of(other, f"  fragments: [a.config]\n{change}")) != plain


def test_tristates_of_kconfig_files() -> None:
    texts = (
        'config A\n\ttristate "A"\nconfig B\n\tbool\nmenuconfig C\n\ttristate\n',
        "config D\n\tdef_tristate m\nchoice\n\ttristate\nendchoice\n",
    )
    assert tristates(texts) == {"A", "C", "D"}


# Losses


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
    assert lost_requests(merge([request]), {"OTHER": "y", **final}) == (
        (request,) if is_lost else ()
    )
