"""Explanations and remedies against the kernels' own conf, and against their real Kconfig files."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from kconfiglib import BOOL, TRISTATE

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.requests import Conditional, Fragment, Requested
from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.config.versions import VersionRange
from pytest_kernelvm.errors import BadInput, ConfigLost, ToolMissing
from pytest_kernelvm.kernel.build.build import build_kernel
from pytest_kernelvm.kernel.build.configure import open_kconfig_session
from pytest_kernelvm.kernel.kconfig.dot_config import (
    as_config,
    lost_requests,
    not_set,
    parse_config,
)
from pytest_kernelvm.kernel.kconfig.losses import definitions, explain_losses
from pytest_kernelvm.kernel.kconfig.menus import Menus, prompts
from pytest_kernelvm.kernel.kconfig.remedy import find_remedy
from pytest_kernelvm.kernel.kconfig.removed_symbols import REMOVED_SYMBOLS
from pytest_kernelvm.kernel.source.source import kernel_version
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.store import Store
from tests.kconfig_examples import EXAMPLES, Example, write_tree
from tests.vm.project import store_of_sources, unpacked_source

# The marker is the plugin's own; these tests boot nothing but need the sources that guests do.
pytestmark = [pytest.mark.vm, pytest.mark.slow]

# For what is the same in every version.
# The first architecture of each ARCH=, as their Kconfig files are the same.
ONE_OF_EACH = {arch.linux_arch: arch.name for arch in reversed(ARCHES.values())}.values()
ONE_VERSION = pytest.mark.parametrize("config", ["malta-6.12"], indirect=True)

SHIPPED = Path(__file__).parents[2] / "vm-configs"


@pytest.fixture(scope="module", params=["malta-6.1", "malta-6.12"])
def config(request: pytest.FixtureRequest) -> CellConfig:
    """A shipped cell, without what it asks for."""
    (cell,) = select_cells(SHIPPED, names=[request.param])
    kernel = dataclasses.replace(cell.kernel, fragments=(), symbols=(), patches=())
    return dataclasses.replace(cell, kernel=kernel)


@pytest.fixture(scope="module")
def sources(kernelvm_store: Store) -> Store:
    return Store(kernelvm_store.root, Silent())


@pytest.fixture(scope="module")
def tree(config: CellConfig, sources: Store) -> Path:
    return unpacked_source(sources, config)


@pytest.fixture
def store(config: CellConfig, sources: Store, tmp_path: Path) -> Store:
    return Store(store_of_sources(tmp_path, sources, [config]), Silent())


def asking(config: CellConfig, *symbols: str | Requested, **changes: object) -> CellConfig:
    """Return a cell that asks for some symbols, each `NAME=value`."""
    requests = tuple(
        each
        if isinstance(each, Requested)
        else Requested(name=each.partition("=")[0], value=each.partition("=")[2], where=f"a:{line}")
        for line, each in enumerate(symbols, start=1)
    )
    kernel = dataclasses.replace(config.kernel, symbols=requests, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(config, kernel=kernel)


def test_conf_is_compiled_once_for_a_source(config: CellConfig, store: Store) -> None:
    with open_kconfig_session(store, config) as configuration:
        configuration.configure()
        log = configuration.directory.with_name("build.log").read_text()
    assert "configuration written to .config" in log
    assert "HOSTCC" not in log


def test_the_shell_is_asked_once(config: CellConfig, store: Store) -> None:
    """What conf was answered it takes as given, and so does Kconfiglib."""
    with open_kconfig_session(store, config) as configuration:
        first = configuration.configure()
        files = {
            file: file.read_bytes()
            for file in configuration.directory.with_name("conf-answers").iterdir()
        }
        assert len(files) > 50
        assert configuration.olddefconfig({}) == first.text
        (version,) = (file for file, text in files.items() if b"/cc-version.sh" in text)
        question = files[version].partition(b"\0")[0]
        version.unlink()
        version.write_bytes(question + b"\0GCC 987654\n")
        assert parse_config(configuration.olddefconfig({}))["GCC_VERSION"] == "987654"
        menus = configuration.menus(first.values)
        gcc_version = menus.symbol("GCC_VERSION")
        assert gcc_version is not None
        assert "987654" in {menus.value(value) for value, _ in gcc_version.defaults}
        # An answer to another question of the same name is none.
        version.write_bytes(question + b" \0GCC 987654\n")
        assert configuration.olddefconfig({}) == first.text
        assert version.read_bytes() == files[version]


def test_cached_answers_do_not_change_the_config(config: CellConfig, store: Store) -> None:
    """With a conf that asks each time, the same comes out."""
    with open_kconfig_session(
        store, asking(config, "NET=y", base="malta_defconfig")
    ) as configuration:
        text = configuration.configure().text
        environment = configuration.environment()
        del environment["LD_PRELOAD"]
        variables = (f"{name}={value}" for name, value in environment.items())
        conf = configuration.directory / "scripts/kconfig/conf"
        run(
            ["env", "-i", *variables, conf, "--olddefconfig", "Kconfig"],
            cwd=configuration.directory,
            timeout_s=300,
        )
        assert configuration.file.read_text() == text


# The small tree, with the real conf


@pytest.fixture(scope="module")
def conf(
    config: CellConfig, sources: Store, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, Mapping[str, str]], Mapping[str, str]]:
    """A function that runs this source's conf on a Kconfig tree and some values."""
    program = tmp_path_factory.mktemp("conf") / "conf"
    try:
        with open_kconfig_session(sources, config) as configuration:
            shutil.copy2(configuration.directory / "scripts/kconfig/conf", program)
    except ToolMissing as error:
        pytest.skip(error.summary)

    def decide(kconfig: Path, values: Mapping[str, str]) -> Mapping[str, str]:
        file = kconfig / ".config"
        file.write_text(as_config(values))
        variables = {"srctree": str(kconfig), "KCONFIG_CONFIG": str(file)}
        run([program, "--olddefconfig", "Kconfig"], cwd=kconfig, env=variables, timeout_s=60)
        return parse_config(file.read_text())

    return decide


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.name))
def test_conf_does_what_was_recorded_and_confirms_the_remedy(
    example: Example,
    conf: Callable[[Path, Mapping[str, str]], Mapping[str, str]],
    tmp_path: Path,
) -> None:
    kconfig = write_tree(tmp_path / "tree")
    final = conf(kconfig, example.asked)
    assert final == example.final
    requests = {
        name: Requested(name=name, value=value, where=f"a:{line}")
        for line, (name, value) in enumerate(example.asked.items(), start=1)
    }
    menus = Menus.parse("Kconfig", environment={"srctree": str(kconfig)}, values=final)
    losses = explain_losses(lost_requests(requests, final), menus, requests, kconfig)
    remedy = find_remedy(losses, menus, requests, functools.partial(conf, kconfig))
    assert (remedy.extra if remedy else {}) == example.extra
    if remedy:
        saved = conf(kconfig, {**example.asked, **remedy.extra})
        assert all(saved.get(name) == example.asked[name] for name in remedy.saved if name in saved)
        assert not set(remedy.saved) & {each.name for each in lost_requests(requests, saved)}


# The real trees


@pytest.mark.parametrize("base", ["allnoconfig", "defconfig"])
@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_conditions_agree_with_conf_on_every_symbol(
    config: CellConfig, store: Store, arch: str, base: str
) -> None:
    """What conf writes as `is not set` is what may be set by hand; selects hold symbols up."""
    cell = dataclasses.replace(asking(config, base=base), arch=ARCHES[arch])
    with open_kconfig_session(store, cell) as configuration:
        text = configuration.configure().text
        menus = configuration.menus(parse_config(text))
    assert len(menus.names) > 15_000
    may_be_set = not_set(text)
    wrong = []
    for name in sorted(menus.names):
        symbol = menus.symbol(name)
        assert symbol is not None
        if symbol.orig_type not in (BOOL, TRISTATE):
            continue
        level, visible = menus.level(symbol), menus.visibility(symbol)
        selected = max(
            (
                min(menus.level(other), menus.level(condition))
                for other, condition, _ in menus.selectors(symbol)
            ),
            default=0,
        )
        if level < selected:
            wrong.append(f"{name}: selected")
        if prompts(symbol) and level == 0 and (name in may_be_set) != (visible > 0):
            wrong.append(f"{name}: visible")
    assert wrong == []


def test_removed_symbols_are_absent_from_the_version_in_the_table(tree: Path) -> None:
    version = kernel_version(tree)
    gone = {
        name
        for name, each in REMOVED_SYMBOLS.items()
        if VersionRange(f">={each.since}").includes(version)
    }
    new = {REMOVED_SYMBOLS[name].new for name in gone} - {""}
    found = set(definitions(tree, [*REMOVED_SYMBOLS, *new]))
    # The old name of AUTOFS_FS lived on beside the new one, as its note says.
    assert found & gone - new <= {"AUTOFS4_FS"}
    assert new <= found
    # What goes later is still there, unless it came later as well.
    assert set(REMOVED_SYMBOLS) - gone <= found


# Bases


@pytest.mark.parametrize(
    ("base", "has"),
    [
        ("allnoconfig", {"MODULES": "n", "CC_OPTIMIZE_FOR_PERFORMANCE": "y"}),
        ("tinyconfig", {"MODULES": "n", "CC_OPTIMIZE_FOR_SIZE": "y"}),
        ("malta_defconfig", {"MODULES": "y", "MIPS_MALTA": "y"}),
    ],
)
def test_bases(base: str, has: Mapping[str, str], config: CellConfig, store: Store) -> None:
    with open_kconfig_session(store, asking(config, "SYSVIPC=y", base=base)) as configuration:
        decision = configuration.configure()
    assert decision.lost == ()
    assert decision.values["SYSVIPC"] == "y"
    assert {name: decision.values.get(name, "n") for name in has} == has


def test_a_complete_config_is_a_base(config: CellConfig, store: Store, tmp_path: Path) -> None:
    with open_kconfig_session(store, asking(config, base="malta_defconfig")) as configuration:
        first = configuration.configure()
    complete = tmp_path / "complete.config"
    complete.write_text(first.text)
    cell = asking(config, "SYSVIPC=n", 'LOCALVERSION="-\\"a b\\""', base=str(complete))
    with open_kconfig_session(store, cell) as configuration:
        second = configuration.configure()
    assert second.lost == ()
    changed = {
        name
        for name in {*first.values, *second.values}
        if first.values.get(name) != second.values.get(name)
    }
    assert {"SYSVIPC", "LOCALVERSION"} <= changed
    assert changed <= {"SYSVIPC", "LOCALVERSION", "SYSVIPC_SYSCTL", "IPC_NS"}
    assert second.values["LOCALVERSION"] == '"-\\"a b\\""'
    assert set(configuration.changed_from_base(second)) <= {"SYSVIPC_SYSCTL", "IPC_NS"}
    assert "SYSVIPC_SYSCTL" in configuration.changed_from_base(second)


@ONE_VERSION
def test_a_defconfig_that_the_source_lacks(config: CellConfig, store: Store) -> None:
    with (
        open_kconfig_session(store, asking(config, base="matla_defconfig")) as configuration,
        pytest.raises(BadInput) as bad,
    ):
        configuration.configure()
    assert bad.value.summary == f"{config.id}: the source has no matla_defconfig"
    assert bad.value.evidence.next_step.startswith("did you mean malta_defconfig")


# Rules


def rule(name: str, *symbols: str, value: str = "") -> Conditional:
    requests = tuple(
        Requested(name=each.partition("=")[0], value=each.partition("=")[2], where=f"c:{name}")
        for each in symbols
    )
    return Conditional(name=name, value=value, where=f"c:{name}", symbols=requests)


def test_conditional_symbols_follow_each_other(config: CellConfig, store: Store) -> None:
    """NET is set, which adds INET, whose default SYN_COOKIES rule adds; BLOCK is not."""
    rules = (
        rule("INET", "IP_MULTICAST=y"),
        rule("IP_MULTICAST", "IP_MROUTE=y", value="y"),
        rule("NET", "INET=y"),
        rule("USB", "NO_SUCH_SYMBOL=y"),
        rule("NET", "UNIX=y", value="m"),
    )
    with open_kconfig_session(store, asking(config, "NET=y", conditional=rules)) as configuration:
        decision = configuration.configure()
    assert decision.lost == ()
    assert set(decision.requests) == {"NET", "INET", "IP_MULTICAST", "IP_MROUTE"}
    assert decision.values["IP_MROUTE"] == "y"
    assert "UNIX" not in decision.values


@ONE_VERSION
def test_conditional_symbols_that_undo_their_condition(config: CellConfig, store: Store) -> None:
    rules = (rule("INET", "UNIX=y"), rule("UNIX", "NET=n"))
    cell = asking(
        config,
        Requested(name="NET", value="y", where="a:1", optional=True),
        "INET=y",
        conditional=rules,
    )
    with (
        open_kconfig_session(store, cell) as configuration,
        pytest.raises(BadInput, match=r"NET=y +a:1"),
    ):
        configuration.configure()
    forced = tuple(
        dataclasses.replace(
            each, symbols=tuple(dataclasses.replace(one, force=True) for one in each.symbols)
        )
        for each in rules
    )
    kernel = dataclasses.replace(cell.kernel, conditional=forced)
    with (
        open_kconfig_session(store, dataclasses.replace(cell, kernel=kernel)) as configuration,
        pytest.raises(BadInput, match="take away what they depend on: INET and UNIX") as bad,
    ):
        configuration.configure()
    assert "UNIX: NET=n  (c:UNIX)" in bad.value.evidence.excerpt


# Answers for those that nobody names

WANTED = ("MODULES=y", "NET=y", "INET=y", "BLOCK=y", "BLK_DEV=y", "BLK_DEV_LOOP=y")


@ONE_VERSION
def test_auto_modules(config: CellConfig, store: Store) -> None:
    with open_kconfig_session(store, asking(config, *WANTED, auto_modules=True)) as configuration:
        values = configuration.configure().values
        menus = configuration.menus(values)
    assert values["BLK_DEV_LOOP"] == "y"
    assert values["BLK_DEV_NBD"] == values["BLK_DEV_RAM"] == "m"
    left = [
        name
        for name in menus.names
        if (symbol := menus.symbol(name)) is not None
        and symbol.orig_type == TRISTATE
        and menus.level(symbol) == 0
        and menus.visibility(symbol) > 0
        and symbol.choice is None
    ]
    assert left == []


@ONE_VERSION
def test_prefer_builtin(config: CellConfig, store: Store) -> None:
    with open_kconfig_session(store, asking(config, *WANTED, prefer_builtin=True)) as configuration:
        values = configuration.configure().values
    assert values["BLK_DEV_NBD"] == values["BLK_DEV_RAM"] == values["BLK_DEV_LOOP"] == "y"


@ONE_VERSION
def test_auto_modules_that_keep_the_builtin(config: CellConfig, store: Store) -> None:
    """What malta_defconfig has as y stays; what nobody wanted becomes a module."""
    cell = asking(config, base="malta_defconfig", auto_modules=True, prefer_builtin=True)
    with open_kconfig_session(store, cell) as configuration:
        values = configuration.configure().values
    assert values["UNIX"] == "y"
    assert values["BLK_DEV_DRBD"] == "m"


@ONE_VERSION
def test_auto_modules_without_modules(config: CellConfig, store: Store) -> None:
    with (
        open_kconfig_session(store, asking(config, auto_modules=True)) as configuration,
        pytest.raises(BadInput, match="auto_modules, but MODULES is n"),
    ):
        configuration.configure()


# Losses


def test_the_report_of_a_real_kernel(config: CellConfig, store: Store) -> None:
    """Each line that the remedy names is needed, and with them nothing is lost."""
    asked = ("MODULES=y", "NF_NAT=m", "USB_STORAGE=m", "NFT_REJECT_INET=m")
    with open_kconfig_session(store, asking(config, *asked)) as configuration:
        decision = configuration.configure()
        error = configuration.explain(decision)
    assert isinstance(error, ConfigLost)
    text = error.evidence.excerpt
    assert "USB_STORAGE      requested m, got n  (a:3)\n" in text
    assert "if USB_SUPPORT" in text
    assert ": USB_SUPPORT=n" in text
    tried = text.partition("tried: olddefconfig keeps all 3 with these as well\n")[2]
    lines = [line.strip().removeprefix("CONFIG_") for line in tried.splitlines()]
    assert "USB_SUPPORT=y" in lines
    with open_kconfig_session(store, asking(config, *asked, *lines)) as configuration:
        assert configuration.configure().lost == ()


@ONE_VERSION
def test_optional_symbols_may_be_lost(config: CellConfig, store: Store) -> None:
    optional = Requested(name="USB_STORAGE", value="y", where="a:1", optional=True)
    with open_kconfig_session(store, asking(config, "SYSVIPC=y", optional)) as configuration:
        decision = configuration.configure()
    assert decision.lost == ()
    assert decision.dropped == (optional,)


@ONE_VERSION
def test_where_kconfiglib_gives_up_the_losses_are_still_listed(
    config: CellConfig, store: Store, tmp_path: Path
) -> None:
    with open_kconfig_session(store, asking(config, "USB_STORAGE=y")) as configuration:
        decision = configuration.configure()
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / "Kconfig").write_text("config A\n\tbool\n\tsurprising news\n")
        environment = {**configuration.environment(), "srctree": str(tmp_path / "odd")}
        error = configuration.explain(decision, environment)
    text = str(error)
    assert "USB_STORAGE  requested y, got n  (a:1)" in text
    assert "not explained: Kconfiglib cannot parse Kconfig" in text


@ONE_VERSION
def test_nothing_is_built_after_a_loss(config: CellConfig, store: Store) -> None:
    with pytest.raises(ConfigLost, match="1 symbol of"):
        build_kernel(store, asking(config, "USB_STORAGE=y"))
    assert not (store.root / "kernels").exists()
    assert list((store.root / "tmp").iterdir()) == []


def test_versions_and_fragments(config: CellConfig, store: Store, tmp_path: Path) -> None:
    fragment = tmp_path / "a.config"
    fragment.write_text("CONFIG_SYSVIPC=y\n")
    old = Fragment(path=fragment, where="a:1", versions=VersionRange("<6.5"))
    with open_kconfig_session(store, asking(config, fragments=(old,))) as configuration:
        values = configuration.configure().values
    assert ("SYSVIPC" in values) == (config.kernel.version == "6.1")


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = tmp_path / "store" / "tmp"
    assert not left.exists() or list(left.iterdir()) == []
