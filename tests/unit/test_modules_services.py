"""Services: what they require, what their descriptions may say, and who holds which module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.cli.main import main
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.services import Service, shipped_services
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.services import LoadedServices, closure_of, requirement
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.modules.unpack import unpacked
from tests.unit.debian_packages import module_root, unreachable_is_skipped
from tests.unit.test_modules_tree import make_tree

SHIPPED = {service.name: service for service in shipped_services()}


def service_of(tmp_path: Path, text: str) -> Service:
    """Return the service `own` of a vm-config."""
    return {each.name: each for each in config_of(tmp_path, text).services}["own"]


def config_of(tmp_path: Path, services: str) -> CellConfig:
    file = tmp_path / "m.yaml"
    file.write_text(f"arch: mips\nkernel: {{version: 6.12}}\nservices:\n{services}")
    return read_config(file)[0]


OWN = """
  own:
    doc: Mine.
    modules: [a]
    parameters:
      size: {doc: How big., type: integer, default: 7, least: 1, most: 9, sets: a.size}
      loud: {doc: Noise., type: boolean, default: false, sets: b.loud}
      label: {doc: A text., sets: a.label}
      way: {doc: Which way., default: up, allowed: [up, down]}
    when:
      - parameters: {loud: "true"}
        modules: [b]
        options: {b: extra=1}
      - symbols: {IPV6: set, MTD: m}
        modules: [c]
"""


def test_what_a_service_requires(tmp_path: Path) -> None:
    own = service_of(tmp_path, OWN)
    plain = requirement(own, {}, {})
    assert plain.modules == ("a",)
    assert plain.options == (("a", "size=7"), ("b", "loud=0"))
    assert plain.with_parameters == ()
    full = requirement(own, {"loud": True, "label": "x y", "size": 9}, {"IPV6": "y", "MTD": "m"})
    assert full.modules == ("a", "b", "c")
    assert full.with_parameters == ("a", "b", "a")
    assert full.options == (
        ("a", "size=9"),
        ("b", "loud=1"),
        ("a", 'label="x y"'),
        ("b", "extra=1"),
    )
    assert requirement(own, {}, {"IPV6": "y", "MTD": "y"}).modules == ("a",)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"size": 0}, "a number from 1 to 9"),
        ({"size": "big"}, "a whole number"),
        ({"loud": "perhaps"}, "true or false"),
        ({"way": "left"}, "one of up, down"),
        ({"label": 'a"b'}, "one line without quotes"),
        ({"colour": "red"}, "one of size, loud, label, way"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, values: dict[str, str], text: str) -> None:
    with pytest.raises(BadInput) as error:
        requirement(service_of(tmp_path, OWN), values, {})
    assert text in error.value.evidence.expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  own: {doc: x}\n", ["own has no modules", "firewall"]),
        ("  own: {modules: [a], when: [{parameters: {x: y}}]}\n", ["own has no parameter x"]),
        ("  bridge: {defaults: {vlan: perhaps}}\n", ["'perhaps'", "true or false", "m.yaml:4:"]),
        ("  bridge: {defaults: {colour: red}}\n", ["bridge has no parameter colour"]),
        ("  own: {modules: [a], parameters: {x: {type: whole, doc: d}}}\n", ["m.yaml:4:", "whole"]),
        ("  own: {modules: [a], parameters: {x: {}}}\n", ["m.yaml:4:", "'doc' is missing"]),
        ("  Own: {modules: [a]}\n", ["m.yaml:4:3", "a service's name"]),
    ],
)
def test_mistakes_in_a_description(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        config_of(tmp_path, text)
    for word in words:
        assert word in str(error.value)


def test_other_defaults_for_a_shipped_one(tmp_path: Path) -> None:
    services = config_of(tmp_path, "  bridge: {defaults: {vlan: false}}\n").services
    bridge = next(each for each in services if each.name == "bridge")
    assert requirement(bridge, {}, {}).modules == ("bridge",)
    assert requirement(bridge, {"vlan": True}, {}).modules == ("bridge", "8021q")
    assert {each.name for each in services} == set(SHIPPED)


def test_the_shipped_ones_are_documented_and_as_liminix_has_them() -> None:
    assert {"firewall", "bridge", "ppp", "wireguard"} <= set(SHIPPED)
    assert all(service.doc for service in SHIPPED.values())
    firewall = requirement(SHIPPED["firewall"], {}, {"IPV6": "y"})
    assert len(firewall.modules) == 23
    assert len(requirement(SHIPPED["firewall"], {"ipv6": False}, {"IPV6": "y"}).modules) == 18
    assert requirement(SHIPPED["firewall"], {}, {}).modules == firewall.modules[:18]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_shipped_ones_fit_a_real_kernel(name: str) -> None:
    """Debian's arm64 kernel has all modules, and these the parameters that services set."""
    root = unreachable_is_skipped(module_root("bookworm-backports", "arm64", "linux-image-arm64"))
    tree = ModuleTree(next((root / "lib" / "modules").iterdir()))
    service = SHIPPED[name]
    for transport in ("ethernet", "serial", "l2tp"):
        values = {"transport": transport} if name == "ppp" else {}
        needed = requirement(service, values, {"IPV6": "y"})
        assert closure_of(tree, needed).load_order
    for parameter in service.parameters:
        module, _, option = parameter.sets.partition(".")
        if module:
            # .modinfo does not tell those of module_param_call(); their names are in the file.
            assert f"\0{option}\0".encode() in unpacked(tree.modules[module].path)


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    return make_tree(tmp_path, {"a": ["shared"], "b": ["shared"], "shared": [], "c": []})


def test_options_reach_the_plan(tree: ModuleTree, tmp_path: Path) -> None:
    closure = closure_of(tree, requirement(service_of(tmp_path, OWN), {"label": "x"}, {}))
    assert {step.name: step.options for step in closure.plan.load} == {
        "shared": "",
        "a": "size=7 label=x",
    }


def test_shared_modules_stay_until_the_last_service_is_unloaded(tree: ModuleTree) -> None:
    loaded = LoadedServices()
    loaded, steps = loaded.load("one", resolve_closure(tree, ["a"]), present=())
    assert [step.name for step in steps] == ["shared", "a"]
    loaded, steps = loaded.load("two", resolve_closure(tree, ["b", "c"]), present={"shared", "a"})
    assert [step.name for step in steps] == ["b", "c"]
    loaded, gone = loaded.unload("one")
    assert gone == ("a",)
    loaded, gone = loaded.unload("two")
    assert gone == ("c", "b", "shared")
    assert loaded == LoadedServices()


def test_modules_that_were_there_before_stay(tree: ModuleTree) -> None:
    loaded, steps = LoadedServices().load("one", resolve_closure(tree, ["a"]), present={"shared"})
    assert [step.name for step in steps] == ["a"]
    assert loaded.unload("one")[1] == ("a",)


def test_a_service_is_neither_loaded_nor_unloaded_twice(tree: ModuleTree, tmp_path: Path) -> None:
    loaded, _ = LoadedServices().load("one", resolve_closure(tree, ["a"]), present=())
    with pytest.raises(BadInput, match="one is loaded already"):
        loaded.load("one", resolve_closure(tree, ["a"]), present=())
    with pytest.raises(BadInput, match="two is not loaded"):
        loaded.unload("two")
    late = closure_of(tree, requirement(service_of(tmp_path, OWN), {}, {}))
    with pytest.raises(BadInput, match="has parameters for modules that are loaded already"):
        loaded.load("two", late, present={"shared", "a"}, with_parameters={"a"})


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=25))
def test_any_loads_and_unloads_leave_only_used_modules(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
) -> None:
    """The kernel is a set here: what is inserted must be new with its needs there, and back."""
    root = tmp_path_factory.getbasetemp() / "loaded"
    needs = {"a": ["s", "t"], "b": ["s", "t"], "s": ["t"], "t": [], "c": ["t"]}
    tree = make_tree(root, needs)
    wanted = (("a",), ("b", "c"), ("s",), ("c",))
    loaded, kernel = LoadedServices(), dict[str, None]()
    for load, number in steps:
        service = str(number)
        if load and service not in loaded.closures:
            loaded, came = loaded.load(
                service, resolve_closure(tree, wanted[number]), kernel.keys()
            )
            for step in came:
                assert step.name not in kernel
                assert set(needs[step.name]) <= kernel.keys()
                kernel[step.name] = None
        elif not load and service in loaded.closures:
            loaded, gone = loaded.unload(service)
            for name in gone:
                del kernel[name]
                assert not any(name in needs[other] for other in kernel)
        held = {name for modules in loaded.closures.values() for name in modules}
        assert set(kernel) == held == set(loaded.inserted)


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "firewall"]) == 0
    text = capsys.readouterr().out
    assert "hash_size (integer 1…1048576, default as the module has it): Buckets" in text
    assert "sets nf_conntrack.hashsize" in text
    assert "where the kernel has IPV6=set and ipv6 is true: nft_fib_ipv6" in text
    assert main(["services", "--format", "json"]) == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)} == set(SHIPPED)
    assert main(["services", "nosuch"]) == 2
    assert "no service nosuch" in capsys.readouterr().err
