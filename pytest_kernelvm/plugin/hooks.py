"""The pytest plugin: options, markers, fixtures and reports.

It is loaded in every pytest run of an environment, so nothing heavy is imported before a test asks
for a guest.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kernelvm.plugin import claims, marks

if TYPE_CHECKING:
    from pytest_kernelvm import BootVm, Cell, Closure, Initramfs, Kernel, Vm
    from pytest_kernelvm.config.model import VmConfig
    from pytest_kernelvm.errors import KernelvmError
    from pytest_kernelvm.plugin.guest_request import GuestFactory, LinkedVms
    from pytest_kernelvm.plugin.splat_policy import Tolerance
    from pytest_kernelvm.report.observer import Witness
    from pytest_kernelvm.report.run import RunReport
    from pytest_kernelvm.report.terminal import TerminalProgress
    from pytest_kernelvm.session.guests import Guests
    from pytest_kernelvm.store.store import Store

# The options that have a value, which may stand behind a space.
VALUED = (
    *("--kernelvm-config", "--kernelvm-arch", "--kernelvm-configs", "--kernelvm-store"),
    *("--kernelvm-source", "--kernelvm-fresh", "--kernelvm-keep", "--kernelvm-splats"),
)
SHORT_FIXTURES = "kernelvm-short-fixtures"
# The property of a failed test that JUnit's file has.
VERDICT = "kernelvm_verdict"
SPLATS = ("fail", "warn", "off")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; this is the plugin's whole cost in a run without guests."""
    group = parser.getgroup("kernelvm", "kernels in virtual machines")
    group.addoption(
        "--kernelvm-config",
        action="append",
        default=[],
        metavar="NAME",
        help="test this vm-config (malta), cell (malta-6.12) or file; repeatable; default all",
    )
    group.addoption(
        "--kernelvm-arch",
        action="append",
        default=[],
        metavar="ARCH",
        help="test the cells of this architecture; repeatable",
    )
    group.addoption(
        "--kernelvm-configs",
        metavar="DIR",
        help="directory of vm-configs, default the ini option kernelvm_configs",
    )
    group.addoption(
        "--kernelvm-store",
        metavar="DIR",
        help="where built kernels are kept, default $KERNELVM_STORE or ~/.cache/kernelvm",
    )
    group.addoption(
        "--kernelvm-source",
        metavar="KIND:VALUE",
        help="take the kernels from there: tree:PATH, git:REPOSITORY@REF, … as for kernelvm build",
    )
    group.addoption(
        "--kernelvm-fresh",
        choices=marks.FRESH,
        help="how each `vm` gets its state right after boot: from a stored snapshot (restore, the "
        "default), by booting (boot), or from the test before where both are marked clean=True "
        "(share); default the ini option kernelvm_fresh",
    )
    group.addoption(
        "--kernelvm-keep",
        choices=("failed", "none"),
        default="none",
        help="keep the guests of failed tests as the failure left them (failed), for `kernelvm "
        "attach`; default none",
    )
    group.addoption(
        "--kernelvm-record",
        action="store_true",
        help="record each guest's console as an asciinema cast in the ini option kernelvm_casts",
    )
    parser.addini("kernelvm_casts", "directory of recordings", default="kernelvm-casts")
    group.addoption(
        "--kernelvm-splats",
        choices=SPLATS,
        help="what becomes of a test whose kernel finds something wrong that was not allowed "
        "(WARN, BUG, oops, KASAN, lockups, …); default the ini option kernelvm_splats",
    )
    parser.addini(
        "kernelvm_short_fixtures",
        "whether fixtures have their short names (vm) beside the long ones (kernelvm_vm)",
        type="bool",
        default=True,
    )
    parser.addini("kernelvm_configs", "directory of vm-configs", default="vm-configs")
    parser.addini(
        "kernelvm_console_limit",
        "MiB of each guest's console that are kept; a guest that says more fails its test",
        default="48",
    )
    parser.addini(
        "kernelvm_fresh", "restore, boot or share, as --kernelvm-fresh", default="restore"
    )
    parser.addini("kernelvm_splats", "fail, warn or off, as --kernelvm-splats", default="fail")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, args: list[str]
) -> Generator[None, None, None]:
    """Keep pytest from taking an option's value for a path of tests, from which it begins."""
    if any(arg in VALUED for arg in args):
        from pytest_kernelvm.plugin.rootdir import restore_rootdir

        restore_rootdir(early_config, args, VALUED)
    yield


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and, unless they are switched off, the fixtures' short names."""
    for marker in marks.ALL:
        config.addinivalue_line("markers", marker)
    for option, allowed in (("kernelvm_fresh", marks.FRESH), ("kernelvm_splats", SPLATS)):
        value = config.getini(option)
        if value not in allowed:
            raise pytest.UsageError(f"{option} is one of {', '.join(allowed)}, not {value!r}")
    try:
        short = config.getini("kernelvm_short_fixtures")
    except (ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"kernelvm_short_fixtures is true or false: {error}") from None
    if short:
        from pytest_kernelvm.plugin import short_fixtures

        config.pluginmanager.register(short_fixtures, SHORT_FIXTURES)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Have other plugins' fixtures go before ours of the same short name."""
    short_fixtures: Any = session.config.pluginmanager.get_plugin(SHORT_FIXTURES)
    if short_fixtures:
        short_fixtures.go_behind_others(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that is wrongly marked, skip one that asks for a feature its kernel lacks."""
    # A test that runs again, as it failed, has not yet failed again.
    if _FACTORY in item.stash:
        del item.stash[_FACTORY]
    item.user_properties[:] = [each for each in item.user_properties if each[0] != VERDICT]
    if _MISTAKE in item.stash:
        raise item.stash[_MISTAKE]
    wanted = marks.features_of(item)
    cell = _cell_config(item) if wanted else None
    lacking = wanted - set(cell.kernel.features) if cell else set()
    if cell and lacking:
        pytest.skip(f"no patch of {cell.id} brings {', '.join(sorted(lacking))}")


def _configs_directory(config: pytest.Config) -> Path:
    named = config.getoption("--kernelvm-configs") or config.getini("kernelvm_configs")
    return Path(config.rootpath, named)


# What ends the run, and what fails one test before it is set up.
_FATAL = pytest.StashKey[pytest.UsageError]()
_MISTAKE = pytest.StashKey["KernelvmError"]()
_CELLS = pytest.StashKey[tuple["VmConfig", ...]]()
_UNUSABLE = pytest.StashKey["KernelvmError"]()
_FACTORY = pytest.StashKey["GuestFactory"]()
_RUN = pytest.StashKey["RunReport"]()
_PROGRESS = pytest.StashKey["TerminalProgress"]()
_CHARGED = pytest.StashKey[dict[Path, str]]()
_NEXT = pytest.StashKey["pytest.Item | None"]()
_NUMBERS = pytest.StashKey["itertools.count[int]"]()


def _selected(config: pytest.Config) -> tuple[VmConfig, ...]:
    """Return the cells of the run, which are read once. Raises KernelvmError if there are none."""
    from pytest_kernelvm.errors import KernelvmError

    if _UNUSABLE in config.stash:
        raise config.stash[_UNUSABLE]
    if _CELLS not in config.stash:
        try:
            config.stash[_CELLS] = _read_cells(config)
        except KernelvmError as error:
            config.stash[_UNUSABLE] = error
            raise
    return config.stash[_CELLS]


def _read_cells(config: pytest.Config) -> tuple[VmConfig, ...]:
    from pytest_kernelvm.arch.base import arch_named
    from pytest_kernelvm.config.select import select_cells
    from pytest_kernelvm.config.sources import source_named, with_source
    from pytest_kernelvm.errors import BadInput, Evidence

    directory = _configs_directory(config)
    arches = config.getoption("--kernelvm-arch")
    for name in arches:
        arch_named(name)
    if not _named(config) and not any(directory.glob("*.yaml")):
        raise BadInput(
            f"no vm-configs in {directory}, and a test asks for a kernel",
            Evidence(
                expected=f"{directory}/*.yaml: each a vm-config, which says what kernel is built "
                "and on what machine it is booted",
                next_step="write one (README, `A vm-config`), or name their directory: "
                "--kernelvm-configs=DIR, ini option kernelvm_configs",
            ),
        )
    cells = select_cells(directory, names=config.getoption("--kernelvm-config"), arches=arches)
    source = config.getoption("--kernelvm-source")
    return with_source(cells, source_named(source)) if source else cells


def _named(config: pytest.Config) -> bool:
    """Whether the command line names vm-configs, so that a mistake in them is the run's."""
    options = ("config", "arch", "configs", "source")
    return any(config.getoption(f"--kernelvm-{each}") for each in options)


def _cell_config(item: pytest.Item) -> VmConfig | None:
    """Return the cell that we gave a test as a parameter, None for a test that is not ours."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    cells = item.config.stash.get(_CELLS, ())
    return next((cell for cell in cells if cell is params.get(claims.CELL)), None)


def _claimed(item: pytest.Item) -> bool:
    """Whether a test is multiplied by the run's cells."""
    by_others = claims.parametrized_by_others(item, claims.CELL)
    return claims.uses(item, claims.CELL) and not by_others


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test a cell of each test that uses a guest or what it is made of."""
    if not _claimed(metafunc.definition):
        return
    from pytest_kernelvm.errors import KernelvmError

    try:
        cells = _selected(metafunc.config)
    except KernelvmError as error:
        if not _named(metafunc.config) or hasattr(metafunc.config, "workerinput"):
            # Each of these tests fails for it, see pytest_itemcollected.
            return
        metafunc.config.stash[_FATAL] = pytest.UsageError(str(error))
        raise metafunc.config.stash[_FATAL] from None
    if claims.CELL not in metafunc.fixturenames:
        # pytest before 9 does not look behind a fixture that overrides one of ours and calls it.
        metafunc.fixturenames.append(claims.CELL)
    metafunc.parametrize(
        claims.CELL,
        [pytest.param(cell, id=cell.id, marks=pytest.mark.vm) for cell in cells],
        indirect=True,
        scope="session",
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a mistake on the command line end the run; pytest would show it as a traceback."""
    report = yield
    if _FATAL in collector.config.stash:
        raise collector.config.stash[_FATAL]
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Find what is wrong with a test before anything is built; it alone fails for it."""
    mistake: KernelvmError | None = marks.mistake_in(item)
    if _UNUSABLE in item.config.stash and _claimed(item):
        item.add_marker("vm")
        mistake = mistake or item.config.stash[_UNUSABLE]
    if mistake:
        item.stash[_MISTAKE] = mistake


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a cell to one worker, so that kernels are built and read once."""
    if config.getoption("dist", "no") != "load":
        return None
    if not _configs_directory(config).is_dir() and not _named(config):
        return None
    from pytest_kernelvm.errors import KernelvmError
    from pytest_kernelvm.plugin.scheduling import CellScheduling

    try:
        cells = _selected(config)
    except KernelvmError as error:
        if _named(config):
            raise pytest.UsageError(str(error)) from None
        # Whether a test needs them only the workers know, and say.
        return None
    return CellScheduling(config, log, [cell.id for cell in cells])


def _run_report(config: pytest.Config) -> RunReport:
    """Return what tells of this run, registered when first asked for."""
    if _RUN not in config.stash:
        from pytest_kernelvm.report.run import RunReport

        config.stash[_RUN] = RunReport(config, _progress(config).clear)
        config.pluginmanager.register(config.stash[_RUN], "kernelvm-run")
    return config.stash[_RUN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the run told of if there is a guest in it, and mistakes where nothing will run."""
    config = session.config
    if config.getoption("collectonly"):
        _tell_mistakes(session)
    if any(_cell_config(item) for item in session.items):
        _run_report(config)


def _tell_mistakes(session: pytest.Session) -> None:
    """Report what is wrong with collected tests as errors of the collection, each once."""
    tests: dict[str, list[str]] = {}
    for item in session.items:
        if _MISTAKE in item.stash:
            tests.setdefault(str(item.stash[_MISTAKE]), []).append(item.nodeid)
    for words, nodeids in tests.items():
        more = f"\n  and so for {len(nodeids) - 1} more tests" if nodeids[1:] else ""
        report = pytest.CollectReport(nodeids[0], "failed", f"{words}{more}", result=[])
        session.ihook.pytest_collectreport(report=report)


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> list[str]:
    """Say with what the cells are tested that were selected."""
    return _header(config, [item.nodeid for item in items]) if _RUN in config.stash else []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Say the same where the workers collect, when the first has."""
    config = node.config
    if _CELLS not in config.stash or _RUN in config.stash:
        return
    lines = _header(config, ids)
    if lines:
        _run_report(config)
        reporter = config.pluginmanager.getplugin("terminalreporter")
        reporter.ensure_newline()
        for line in lines:
            reporter.write_line(line)


def _header(config: pytest.Config, nodeids: Sequence[str]) -> list[str]:
    from pytest_kernelvm.plugin.scheduling import cell_pattern
    from pytest_kernelvm.report.run import header

    cells = {cell.id: cell for cell in _selected(config)}
    pattern = cell_pattern(list(cells))
    found = {match[1] for nodeid in nodeids if (match := pattern.search(nodeid))}
    if not found or config.get_verbosity() < 0:
        return []
    return header([cell for name, cell in cells.items() if name in found], _store_root(config))


def _store_root(config: pytest.Config) -> Path:
    from pytest_kernelvm.store.store import default_store

    named = config.getoption("--kernelvm-store")
    return Path(named).absolute() if named else default_store()


def _progress(config: pytest.Config) -> TerminalProgress:
    if _PROGRESS not in config.stash:
        from pytest_kernelvm.report.terminal import TerminalProgress

        config.stash[_PROGRESS] = TerminalProgress(config)
    return config.stash[_PROGRESS]


@pytest.fixture(scope="session")
def kernelvm_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """The store of kernels."""
    from pytest_kernelvm.process import end_with_parent, signals_interrupt
    from pytest_kernelvm.store.store import Store

    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_interrupt())
        if hasattr(request.config, "workerinput"):
            stack.enter_context(end_with_parent())
        yield Store(_store_root(request.config), _progress(request.config))


@pytest.fixture(scope="session")
def kernelvm_cell(request: pytest.FixtureRequest, kernelvm_store: Store) -> Cell:
    """The cell under test: one kernel on one machine."""
    from pytest_kernelvm.errors import BadInput, Evidence
    from pytest_kernelvm.session.cell import Cell

    if not hasattr(request, "param"):
        raise BadInput(
            "a test asks for a kernel's fixture only when it runs already",
            Evidence(
                expected="the fixture among the test's arguments, or in usefixtures",
                next_step="a test runs once a cell, which must be known when it is collected",
            ),
        )
    return Cell(request.param, kernelvm_store)


@pytest.fixture
def kernelvm_kernel(kernelvm_cell: Cell) -> Kernel:
    """The kernel under test, built if need be."""
    return kernelvm_cell.kernel


@pytest.fixture
def kernelvm_closure(kernelvm_cell: Cell, request: pytest.FixtureRequest) -> Closure:
    """The closure of the modules that the test wants: its marker's, or the vm-config's."""
    from pytest_kernelvm.plugin.guest_request import cell_of

    asked = marks.asked_of(request.node)
    return cell_of(kernelvm_cell, asked).closure(asked.modules)


@pytest.fixture
def kernelvm_initramfs(
    kernelvm_cell: Cell, kernelvm_closure: Closure, request: pytest.FixtureRequest
) -> Initramfs:
    """The initramfs that `vm` boots with."""
    from pytest_kernelvm.plugin.guest_request import cell_of

    asked = marks.asked_of(request.node)
    return cell_of(kernelvm_cell, asked).initramfs(
        kernelvm_closure, options=asked.options, blacklist=asked.blacklist, files=asked.files
    )


@pytest.fixture(scope="session")
def kernelvm_guests(
    request: pytest.FixtureRequest,
    kernelvm_store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guests]:
    """What makes guests ready."""
    from pytest_kernelvm.session.guests import Guests

    # This may be set up again, for a last test that runs once more.
    numbers = request.config.stash.setdefault(_NUMBERS, itertools.count())
    # mktemp's own numbering reads the whole directory each time.
    guests = Guests(
        kernelvm_store,
        lambda: tmp_path_factory.mktemp(f"guest-{next(numbers)}", numbered=False),
        _console_limit_bytes(request.config),
    )
    yield guests
    guests.close()
    _run_report(request.config).tally.add_guests(guests.counts, kernelvm_store)


@pytest.fixture(scope="session")
def _kernelvm_witness(request: pytest.FixtureRequest) -> Iterator[Witness]:
    from pytest_kernelvm.report.observer import Witness

    config = request.config
    live = config.getoption("capture") == "no" and not hasattr(config, "workerinput")
    casts = Path(config.rootpath, config.getini("kernelvm_casts"))
    witness = Witness(
        live=sys.stdout.write if live else None,
        casts=casts if config.getoption("--kernelvm-record") else None,
        progress=_progress(config) if config.get_verbosity() > 0 else None,
    )
    yield witness
    witness.close()
    _run_report(config).tally.casts += [str(file) for file in witness.recorded]


@pytest.fixture
def _kernelvm_guest_factory(
    kernelvm_cell: Cell,
    request: pytest.FixtureRequest,
    kernelvm_guests: Guests,
    _kernelvm_witness: Witness,
) -> Iterator[GuestFactory]:
    from pytest_kernelvm.failures.bundle_writer import Leaving
    from pytest_kernelvm.plugin.guest_request import GuestFactory

    keep = request.config.getoption("--kernelvm-keep") == "failed"
    leaving = Leaving(kernelvm_cell.store, keep=keep)
    with contextlib.ExitStack() as stack:
        stack.callback(leaving.discard)
        factory = GuestFactory(
            test=request.node.nodeid,
            cell=kernelvm_cell,
            asked=marks.asked_of(request.node),
            fresh=_fresh(request.config),
            stack=stack,
            guests=kernelvm_guests,
            witness=_kernelvm_witness,
            leaving=leaving,
            tolerance=_tolerance(request.node),
        )
        request.node.stash[_FACTORY] = factory
        yield factory
        _answer(request.node, "the test's end", ask=not factory.failed)


def _console_limit_bytes(config: pytest.Config) -> int:
    words = config.getini("kernelvm_console_limit")
    if not (words.isascii() and words.isdecimal() and int(words)):
        raise pytest.UsageError(f"kernelvm_console_limit is a number of MiB, not {words!r}")
    return int(words) << 20


def _tolerance(item: pytest.Item) -> Tolerance:
    from pytest_kernelvm.plugin.splat_policy import Tolerance

    mode = item.config.getoption("--kernelvm-splats") or item.config.getini("kernelvm_splats")
    return Tolerance(
        test=item.nodeid,
        mode=mode,
        markers=tuple(dict(marker.kwargs) for marker in item.iter_markers("kernelvm_splats")),
        charged=item.config.stash.setdefault(_CHARGED, {}),
    )


def _answer(item: pytest.Item, for_what: str, *, ask: bool) -> None:
    """Fail a test, or warn of it, for what its guests' kernels found wrong.

    ask: whether guests are asked for what their consoles do not show; not those of a test that has
    failed, whose error says what there is to say.
    """
    factory = item.stash.get(_FACTORY, None)
    errors = factory.tolerance.errors(for_what, ask=ask, is_over=ask) if factory else []
    if errors and factory and factory.tolerance.mode == "fail":
        raise errors[0]
    for error in errors:
        from pytest_kernelvm.errors import KernelvmWarning

        item.warn(KernelvmWarning(str(error)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that went well, or was skipped, and left something wrong with its guests."""
    try:
        result = yield
    except (pytest.skip.Exception, pytest.xfail.Exception):
        _answer(item, "the test", ask=True)
        raise
    _answer(item, "the test", ask=True)
    return result


def _fresh(config: pytest.Config) -> str:
    named: str = config.getoption("--kernelvm-fresh") or config.getini("kernelvm_fresh")
    return named


@pytest.fixture
def kernelvm_boot_vm(_kernelvm_guest_factory: GuestFactory) -> BootVm:
    """A function that boots a guest; its arguments override those of the marker `kernelvm`."""
    return _kernelvm_guest_factory.boot


@pytest.fixture
def kernelvm_build_module(kernelvm_cell: Cell) -> Callable[[str | Path], tuple[Path, ...]]:
    """A function that builds a directory's modules against the kernel under test.

    It returns the .ko files, and raises BuildFailed with the compiler's words, or with what makes
    them unfit for this kernel.
    """
    from pytest_kernelvm.session.smoke_tests import build_for

    return lambda directory: build_for(kernelvm_cell, Path(directory)).files


@pytest.fixture
def kernelvm_new_vm(_kernelvm_guest_factory: GuestFactory) -> BootVm:
    """A function that gives a guest as `vm` is; its arguments override those of the marker."""
    return _kernelvm_guest_factory.new


@pytest.fixture
def kernelvm_vms(_kernelvm_guest_factory: GuestFactory) -> LinkedVms:
    """A function that gives two guests with a cable between them: `a, b = vms("a", "b")`."""
    return _kernelvm_guest_factory.linked


@pytest.fixture
def kernelvm_vm(_kernelvm_guest_factory: GuestFactory, request: pytest.FixtureRequest) -> Vm:
    """A guest in its state right after boot."""
    guest = _kernelvm_guest_factory.new()
    following = request.config.stash.get(_NEXT, None)
    if following is not None and _wants_alike(request.node, following):
        from pytest_kernelvm.errors import KernelvmError

        # What cannot be made ready is that test's failure, not this one's.
        with contextlib.suppress(KernelvmError):
            _kernelvm_guest_factory.prepare(marks.asked_of(following))
    return guest


def _wants_alike(item: pytest.Item, other: pytest.Item) -> bool:
    """Whether another test wants our `vm`, of the same cell.

    A test module may have a `vm` of its own, of which nobody knows before what guest it wants.
    """
    cell = _cell_config(item)
    alike = cell is not None and _cell_config(other) is cell
    return alike and _MISTAKE not in other.stash and claims.uses(other, claims.VM)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Remember which test is next, so that its guest can be restored while this one runs."""
    item.config.stash[_NEXT] = nextitem
    try:
        return (yield)
    finally:
        # Items live as long as the run; consoles and journals need not.
        if _FACTORY in item.stash:
            del item.stash[_FACTORY]


def _of_ours(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
    """Whether a test without a cell of the run ended with an error of ours; others may say `vm`."""
    if call.excinfo is None or item.get_closest_marker("vm") is None:
        return False
    from pytest_kernelvm.errors import KernelvmError

    return isinstance(call.excinfo.value, KernelvmError)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a guest's failure needs: the verdict, its console, how to boot it by hand."""
    report = yield
    cell = _cell_config(item)
    if cell:
        from pytest_kernelvm.report.run import note_cell

        note_cell(report, cell)
    elif _MISTAKE not in item.stash and not _of_ours(item, call):
        return report
    if call.excinfo is None or report.skipped:
        return report
    from pytest_kernelvm.report.failure import describe_failure

    factory = item.stash.get(_FACTORY, None)
    if factory:
        factory.failed = True
    guests, leaving = (factory.made, factory.leaving) if factory else ((), None)
    describe_failure(report, call.excinfo, guests, leaving)
    if leaving and leaving.bundle:
        _run_report(item.config).tally.note_bundle(leaving.bundle.name)
    # JUnit's writer asks the teardown's report, which is given what the item has.
    item.user_properties.append(report.user_properties[-1])
    return report
