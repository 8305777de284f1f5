"""Why symbols are lost and what would save them: on a small tree, with what conf was seen to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.kernel.kconfig.dot_config import lost_requests
from pytest_kernelvm.kernel.kconfig.losses import definitions, explain_losses, near_names
from pytest_kernelvm.kernel.kconfig.menus import Menus, as_text, for_kconfiglib
from pytest_kernelvm.kernel.kconfig.remedy import Remedy, find_remedy, ways_to
from pytest_kernelvm.kernel.kconfig.report import explained, unexplained
from pytest_kernelvm.process import run
from tests.kconfig_examples import EXAMPLES, PLAIN, Example, write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"))


def menus_of(tree: Path, values: Mapping[str, str]) -> Menus:
    return Menus.parse("Kconfig", environment={"srctree": str(tree)}, values=values)


def requests_for(asked: Mapping[str, str]) -> dict[str, Requested]:
    return {
        name: Requested(name=name, value=value, where=f"a:{line}")
        for line, (name, value) in enumerate(asked.items(), start=1)
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.name))
def test_each_loss_is_explained(example: Example, tree: Path) -> None:
    requests = requests_for(example.asked)
    losses = explain_losses(
        lost_requests(requests, example.final), menus_of(tree, example.final), requests, tree
    )
    lines = [
        f"{loss.request.name} {loss.reason.value}: {line}" for loss in losses for line in loss.lines
    ]
    assert lines == list(example.losses)


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if len(example.losses) and len(example.asked) == 1],
    ids=lambda example: str(example.name),
)
def test_what_would_save_a_symbol_is_found(example: Example, tree: Path) -> None:
    (request,) = requests_for(example.asked).values()
    if request.value not in ("n", "m", "y") or request.name == "NET":
        return
    ways = ways_to(menus_of(tree, example.final), example.asked, request)
    assert ways[0] == example.extra


def test_a_remedy_keeps_other_requests(tree: Path) -> None:
    """INET needs HARDWARE, which is to be n; the way by another symbol does not exist."""
    asked = {"NET": "y", "INET": "y", "HARDWARE": "n"}
    menus = menus_of(tree, PLAIN | {"NET": "y"})
    assert ways_to(menus, asked, requests_for(asked)["INET"]) == []


def test_a_remedy_that_conf_does_not_confirm_is_none(tree: Path) -> None:
    requests = requests_for({"PROTOCOL": "m"})
    menus = menus_of(tree, PLAIN)
    losses = explain_losses(lost_requests(requests, PLAIN), menus, requests, tree)
    assert find_remedy(losses, menus, requests, lambda _values: PLAIN) is None


def test_a_remedy_has_no_needless_symbols(tree: Path) -> None:
    """A conf that wants no HARDWARE for INET."""

    def decide(values: Mapping[str, str]) -> Mapping[str, str]:
        kept = "PROTOCOL" in values and values.get("INET") == values.get("NET") == "y"
        return PLAIN | ({"PROTOCOL": "m"} if kept else {})

    requests = requests_for({"PROTOCOL": "m"})
    menus = menus_of(tree, PLAIN)
    losses = explain_losses(lost_requests(requests, PLAIN), menus, requests, tree)
    assert find_remedy(losses, menus, requests, decide) == Remedy(
        extra={"INET": "y", "NET": "y"}, saved=("PROTOCOL",)
    )


def test_a_remedy_loses_no_other_symbol(tree: Path) -> None:
    """BUS=m for CARD is fine; what INET needs would, says this conf, take FORCED along."""

    def decide(values: Mapping[str, str]) -> Mapping[str, str]:
        card = {"CARD": "m"} if values.get("BUS") == "m" else {}
        inet = {"INET": "y", "FORCED": "y"} if values.get("HARDWARE") == "y" else {}
        return PLAIN | {"NET": "y"} | card | inet

    asked = {"NET": "y", "CARD": "m", "INET": "y", "FORCED": "n"}
    requests = requests_for(asked)
    menus = menus_of(tree, decide(asked))
    losses = explain_losses(lost_requests(requests, menus.values), menus, requests, tree)
    assert [loss.request.name for loss in losses] == ["CARD", "INET"]
    assert find_remedy(losses, menus, requests, decide) == Remedy(
        extra={"BUS": "m"}, saved=("CARD",)
    )


def test_the_report(tree: Path) -> None:
    requests = requests_for({"CARD": "m", "PROTOCL": "y", "FORCED": "n"})
    final = PLAIN | {"FORCER": "y", "FORCED": "y", "NET": "y"}
    losses = explain_losses(lost_requests(requests, final), menus_of(tree, final), requests, tree)
    error = explained("malta-6.12", losses, Remedy(extra={"BUS": "m"}, saved=("CARD",)))
    assert str(error).splitlines() == [
        "config-lost: 3 symbols of malta-6.12 did not survive olddefconfig",
        "  expected: every requested symbol in the final .config",
        "  | PROTOCL  requested y, got no such symbol here  (a:2)",
        "  |     no such symbol: did you mean PROTOCOL?",
        "  | CARD     requested m, got n  (a:1)",
        "  |     unmet dependency: depends on BUS  Kconfig:29: BUS=n",
        "  | FORCED   requested n, got y  (a:3)",
        "  |     forced by select: FORCER=y selects it, Kconfig:45",
        "  | ",
        "  | tried: olddefconfig keeps CARD with this as well",
        "  |     CONFIG_BUS=m",
        "  next: add these lines to a fragment, or drop the requests that they are for",
    ]


def test_the_report_without_an_explanation(tree: Path) -> None:
    requests = requests_for({"CARD": "m", "NOTHING": "y"})
    error = unexplained(
        "malta-9.1", tuple(requests.values()), PLAIN, tree, "Kconfiglib cannot parse Kconfig: x"
    )
    assert error.evidence.excerpt.splitlines() == [
        "CARD     requested m, got n  (a:1)",
        "NOTHING  requested y, got no such symbol here  (a:2)",
        "",
        "not explained: Kconfiglib cannot parse Kconfig: x",
    ]
    assert error.summary == "2 symbols of malta-9.1 did not survive olddefconfig"


# Kconfiglib


def test_kconfiglib_is_imported_only_to_explain() -> None:
    program = (
        "import sys; import pytest_kernelvm.cli.main, pytest_kernelvm.kernel.build.build; "
        "print('kconfiglib' in sys.modules)"
    )
    assert run([sys.executable, "-c", program], timeout_s=60).stdout == "False\n"


def test_what_kconfiglib_cannot_parse_is_told(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text("config A\n\tbool\n\tfrobnicate X\n")
    with pytest.raises(HarnessError, match=r"Kconfiglib cannot parse Kconfig: .*Kconfig:3"):
        menus_of(tmp_path, {})
    with pytest.raises(HarnessError, match="Kconfiglib cannot parse Kconfig"):
        menus_of(tmp_path / "nothing", {})


def test_our_environment_stays_as_it_was(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELVM_HERE", "1")
    before = dict(os.environ)
    menus_of(tree, {})
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("line", "older"),
    [
        ("\tmodules\n", "\toption modules\n"),
        ("  modules # bare\n", "\toption modules\n"),
        ("\ttransitional\n", "\n"),
        ("\tdepends on A if B\n", "\tdepends on (A) || !(B)\n"),
        ("\tdepends on A || C if B && !D # why\n", "\tdepends on (A || C) || !(B && !D)\n"),
        ("\tdepends on A\n", "\tdepends on A\n"),
        ('\tbool "modules if B" if B\n', '\tbool "modules if B" if B\n'),
        ("\tdepends on A # only if B\n", "\tdepends on A # only if B\n"),
        ("config modules\n", "config modules\n"),
    ],
)
def test_newer_lines_in_the_older_language(line: str, older: str) -> None:
    assert for_kconfiglib(line) == older


def test_the_newest_language_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text(
        "config MODULES\n\tbool\n\tmodules\n\n"
        "config OLD\n\tbool\n\ttransitional\n\n"
        'config NEW\n\tbool "New"\n\tdepends on OLD if MODULES\n\tdefault OLD\n'
    )
    menus = menus_of(tmp_path, {"MODULES": "y"})
    (condition,) = menus.conditions(menus.symbol("NEW").nodes[0])  # type: ignore[union-attr]
    assert as_text(condition.expression) == "OLD || !MODULES"
    assert condition.place == "Kconfig:11"
    assert menus.level(condition.expression) == 0
    assert menus.with_values({}).level(condition.expression) == 2


@pytest.mark.parametrize(
    ("condition", "values", "level"),
    [
        ("A && B", {"A": "y", "B": "m"}, 1),
        ("A || B", {"A": "n", "B": "m"}, 1),
        ("!B", {"B": "m"}, 1),
        ("B = m", {"B": "m"}, 2),
        ("B != n", {}, 0),
        ("N > 9", {"N": "10"}, 2),
        ("N > 9", {"N": "9"}, 0),
        ("H >= 0x10", {"H": "0xff"}, 2),
        ('S = "a b"', {"S": '"a b"'}, 2),
        ('S = "a\\"b"', {"S": '"a\\"b"'}, 2),
        ('S = ""', {}, 2),
        ("NOWHERE", {}, 0),
        ("m", {"MODULES": "y"}, 1),
        ("m", {}, 0),
    ],
)
def test_conditions_have_confs_values(
    condition: str, values: Mapping[str, str], level: int, tmp_path: Path
) -> None:
    declared = "".join(
        f'config {name}\n\t{kind} "{name}"\n'
        for name, kind in (
            ("MODULES", "bool"),
            ("A", "bool"),
            ("B", "tristate"),
            ("N", "int"),
            ("H", "hex"),
            ("S", "string"),
        )
    )
    (tmp_path / "Kconfig").write_text(f'{declared}config X\n\tbool "X"\n\tdepends on {condition}\n')
    menus = menus_of(tmp_path, values)
    (found,) = menus.conditions(menus.symbol("X").nodes[0])  # type: ignore[union-attr]
    assert menus.level(found.expression) == level


# Names


def test_definitions_are_found_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "drivers" / "Kconfig.d").mkdir(parents=True)
    (tmp_path / "Kconfig").write_text('mainmenu "Linux"\nsource "drivers/Kconfig"\n')
    (tmp_path / "drivers" / "Kconfig").write_text(
        "config USB_STORAGE\n\ttristate\nmenuconfig BLK_DEV\n\tbool\n  config\tINDENTED\n"
    )
    (tmp_path / "drivers" / "Kconfig.debug").write_text("config DEBUG\n\tbool\n")
    (tmp_path / "drivers" / "Makefile").write_text("config NO_KCONFIG\n")
    names = ["USB_STORAGE", "BLK_DEV", "INDENTED", "DEBUG", "NO_KCONFIG", "USB", "B.K_DEV"]
    assert definitions(tmp_path, names) == {
        "USB_STORAGE": "drivers/Kconfig:1",
        "BLK_DEV": "drivers/Kconfig:3",
        "INDENTED": "drivers/Kconfig:5",
        "DEBUG": "drivers/Kconfig.debug:1",
    }


def test_near_names() -> None:
    names = ["NF_CONNTRACK", "NF_NAT", "NETFILTER_XT_MATCH_STATE", "USB", "USB_STORAGE"]
    assert near_names("NF_CONTRACK", names) == ["NF_CONNTRACK"]
    assert near_names("MATCH_STATE", names) == ["NETFILTER_XT_MATCH_STATE"]
    assert near_names("XYZ", names) == []
