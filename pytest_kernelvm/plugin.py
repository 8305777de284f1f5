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

if TYPE_CHECKING:
    from pytest_kernelvm import BootVm, Cell, Closure, Initramfs, Kernel, Vm
    from pytest_kernelvm.config import VmConfig
    from pytest_kernelvm.fixtures import Asked, GuestFactory, LinkedVms
    from pytest_kernelvm.kernel.store import Store
    from pytest_kernelvm.report.run import RunReport
    from pytest_kernelvm.report.terminal import TerminalProgress
    from pytest_kernelvm.report.witness import Witness
    from pytest_kernelvm.tolerance import Tolerance
    from pytest_kernelvm.vm.guests import Guests

MARKER = (
    "kernelvm(*, modules=None, userland=None, external=None, options=None, blacklist=(), "
    "files=None, cmdline='', cookie=True, shared_console=False, network='', "
    "boot_timeout_s=None, fresh=None, clean=False): the guest of this test"
)
SPLATS_MARKER = (
    "kernelvm_splats(*, allow, reason): what the kernel of this test's guests may find wrong, by "
    "regular expressions found in a splat's text, and why"
)


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
        choices=("restore", "boot", "share"),
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
        choices=("fail", "warn", "off"),
        help="what becomes of a test whose kernel finds something wrong that was not allowed "
        "(WARN, BUG, oops, KASAN, lockups, …); default the ini option kernelvm_splats",
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


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "vm: boots a guest; set by the plugin itself")
    config.addinivalue_line("markers", MARKER)
    config.addinivalue_line("markers", SPLATS_MARKER)
    config.addinivalue_line(
        "markers",
        "kernelvm_features(name, ...): skips the test where no patch of the kernel has the feature",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that asks for a feature which the patches of its cell's kernel do not bring."""
    wanted = {name for marker in item.iter_markers("kernelvm_features") for name in marker.args}
    params = getattr(getattr(item, "callspec", None), "params", {})
    if wanted and "cell" in params:
        lacking = wanted - set(params["cell"].kernel.features)
        if lacking:
            pytest.skip(f"no patch of {params['cell'].id} brings {', '.join(sorted(lacking))}")


def _configs_directory(config: pytest.Config) -> Path:
    named = config.getoption("--kernelvm-configs") or config.getini("kernelvm_configs")
    return Path(config.rootpath, named)


_MISTAKE = pytest.StashKey[pytest.UsageError]()
_CELLS = pytest.StashKey[tuple["VmConfig", ...]]()
_FACTORY = pytest.StashKey["GuestFactory"]()
_RUN = pytest.StashKey["RunReport"]()
_PROGRESS = pytest.StashKey["TerminalProgress"]()
_CHARGED = pytest.StashKey[set[Path]]()
_NEXT = pytest.StashKey["pytest.Item | None"]()


def _selected(config: pytest.Config) -> tuple[VmConfig, ...]:
    if _CELLS not in config.stash:
        from pytest_kernelvm.config import select_cells, source_named, with_source
        from pytest_kernelvm.errors import KernelvmError

        try:
            cells = select_cells(
                _configs_directory(config),
                names=config.getoption("--kernelvm-config"),
                arches=config.getoption("--kernelvm-arch"),
            )
            source = config.getoption("--kernelvm-source")
            config.stash[_CELLS] = with_source(cells, source_named(source)) if source else cells
        except KernelvmError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_CELLS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test a cell of each test that uses a guest or what it is made of."""
    if "cell" not in metafunc.fixturenames:
        return
    try:
        cells = _selected(metafunc.config)
    except pytest.UsageError as error:
        metafunc.config.stash[_MISTAKE] = error
        raise
    metafunc.parametrize(
        "cell",
        [pytest.param(cell, id=cell.id, marks=pytest.mark.vm) for cell in cells],
        indirect=True,
        scope="session",
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a mistake in options or vm-configs end the run; pytest would show it as a traceback."""
    report = yield
    if _MISTAKE in collector.config.stash:
        raise collector.config.stash[_MISTAKE]
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Check the markers' arguments, so that a mistake is found before anything is built."""
    if item.get_closest_marker("kernelvm"):
        _asked(item)
    if item.get_closest_marker("kernelvm_splats"):
        from pytest_kernelvm.tolerance import allowed_by

        try:
            for marker in item.iter_markers("kernelvm_splats"):
                allowed_by(*marker.args, **marker.kwargs)
        except TypeError as error:
            raise pytest.UsageError(
                f"{item.nodeid}: {error}; the marker is {SPLATS_MARKER}"
            ) from None


def _asked(item: pytest.Item) -> Asked:
    from pytest_kernelvm.fixtures import asked_by

    found: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("kernelvm"))):
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: the marker is {MARKER}")
        found |= marker.kwargs
    try:
        return asked_by(**found)
    except TypeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}; the marker is {MARKER}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a cell to one worker, so that kernels are built and read once."""
    if config.getoption("dist", "no") != "load" or not _configs_directory(config).is_dir():
        return None
    from pytest_kernelvm.scheduling import CellScheduling

    return CellScheduling(config, log, [cell.id for cell in _selected(config)])


def _run_report(config: pytest.Config) -> RunReport:
    """Return what tells of this run, registered when first asked for."""
    if _RUN not in config.stash:
        from pytest_kernelvm.report.run import RunReport

        config.stash[_RUN] = RunReport(config, _progress(config).clear)
        config.pluginmanager.register(config.stash[_RUN], "kernelvm-run")
    return config.stash[_RUN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the run told of if there is a guest in it."""
    config = session.config
    if _CELLS in config.stash and any(item.get_closest_marker("vm") for item in session.items):
        _run_report(config)


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
    from pytest_kernelvm.report.run import header
    from pytest_kernelvm.scheduling import cell_pattern

    cells = {cell.id: cell for cell in _selected(config)}
    pattern = cell_pattern(list(cells))
    found = {match[1] for nodeid in nodeids if (match := pattern.search(nodeid))}
    if not found or config.get_verbosity() < 0:
        return []
    return header([cell for name, cell in cells.items() if name in found], _store_root(config))


def _store_root(config: pytest.Config) -> Path:
    from pytest_kernelvm.kernel.store import default_store

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
    from pytest_kernelvm.kernel.store import Store
    from pytest_kernelvm.process import signals_interrupt

    with signals_interrupt():
        yield Store(_store_root(request.config), _progress(request.config))


@pytest.fixture(scope="session")
def cell(request: pytest.FixtureRequest, kernelvm_store: Store) -> Cell:
    """The cell under test: one kernel on one machine."""
    from pytest_kernelvm.vm.cell import Cell

    return Cell(request.param, kernelvm_store)


@pytest.fixture
def kernel(cell: Cell) -> Kernel:
    """The kernel under test, built if need be."""
    return cell.kernel


@pytest.fixture
def closure(cell: Cell, request: pytest.FixtureRequest) -> Closure:
    """The closure of the modules that the test wants: its marker's, or the vm-config's."""
    from pytest_kernelvm.fixtures import cell_of

    asked = _asked(request.node)
    return cell_of(cell, asked).closure(asked.modules)


@pytest.fixture
def initramfs(cell: Cell, closure: Closure, request: pytest.FixtureRequest) -> Initramfs:
    """The initramfs that `vm` boots with."""
    from pytest_kernelvm.fixtures import cell_of

    asked = _asked(request.node)
    return cell_of(cell, asked).initramfs(
        closure, options=asked.options, blacklist=asked.blacklist, files=asked.files
    )


@pytest.fixture(scope="session")
def kernelvm_guests(
    request: pytest.FixtureRequest,
    kernelvm_store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guests]:
    """What makes guests ready."""
    from pytest_kernelvm.vm.guests import Guests

    numbers = itertools.count()
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
def _witness(request: pytest.FixtureRequest) -> Iterator[Witness]:
    from pytest_kernelvm.report.witness import Witness

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
def _guest_factory(
    cell: Cell, request: pytest.FixtureRequest, kernelvm_guests: Guests, _witness: Witness
) -> Iterator[GuestFactory]:
    from pytest_kernelvm.fixtures import GuestFactory
    from pytest_kernelvm.vm.leaving import Leaving

    keep = request.config.getoption("--kernelvm-keep") == "failed"
    leaving = Leaving(cell.store, keep=keep)
    with contextlib.ExitStack() as stack:
        stack.callback(leaving.discard)
        factory = GuestFactory(
            test=request.node.nodeid,
            cell=cell,
            asked=_asked(request.node),
            fresh=_fresh(request.config),
            stack=stack,
            guests=kernelvm_guests,
            witness=_witness,
            leaving=leaving,
            tolerance=_tolerance(request.node),
        )
        request.node.stash[_FACTORY] = factory
        yield factory
        _answer(request.node, "the test's end", ask=False)


def _console_limit_bytes(config: pytest.Config) -> int:
    words = config.getini("kernelvm_console_limit")
    if not (words.isascii() and words.isdecimal() and int(words)):
        raise pytest.UsageError(f"kernelvm_console_limit is a number of MiB, not {words!r}")
    return int(words) << 20


def _tolerance(item: pytest.Item) -> Tolerance:
    from pytest_kernelvm.tolerance import SPLATS, Tolerance

    mode = item.config.getoption("--kernelvm-splats") or item.config.getini("kernelvm_splats")
    if mode not in SPLATS:
        raise pytest.UsageError(f"kernelvm_splats is one of {', '.join(SPLATS)}, not {mode!r}")
    return Tolerance(
        mode=mode,
        markers=tuple(dict(marker.kwargs) for marker in item.iter_markers("kernelvm_splats")),
        charged=item.config.stash.setdefault(_CHARGED, set()),
    )


def _answer(item: pytest.Item, for_what: str, *, ask: bool) -> None:
    """Fail a test, or warn of it, for what its guests' kernels found wrong.

    ask: whether guests are asked for what their consoles do not show.
    """
    factory = item.stash.get(_FACTORY, None)
    errors = factory.tolerance.errors(for_what, ask=ask) if factory else []
    if errors and factory and factory.tolerance.mode == "fail":
        raise errors[0]
    for error in errors:
        item.warn(pytest.PytestWarning(str(error)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that went well and left something wrong in its guests' logs."""
    result = yield
    _answer(item, "the test", ask=True)
    return result


def _fresh(config: pytest.Config) -> str:
    named: str = config.getoption("--kernelvm-fresh") or config.getini("kernelvm_fresh")
    return named


@pytest.fixture
def boot_vm(_guest_factory: GuestFactory) -> BootVm:
    """A function that boots a guest; its arguments override those of the marker `kernelvm`."""
    return _guest_factory.boot


@pytest.fixture
def build_module(cell: Cell) -> Callable[[str | Path], tuple[Path, ...]]:
    """A function that builds a directory's modules against the kernel under test.

    It returns the .ko files, and raises BuildFailed with the compiler's words, or with what makes
    them unfit for this kernel.
    """
    from pytest_kernelvm.vm.trial import build_for

    return lambda directory: build_for(cell, Path(directory)).files


@pytest.fixture
def new_vm(_guest_factory: GuestFactory) -> BootVm:
    """A function that gives a guest as `vm` is; its arguments override those of the marker."""
    return _guest_factory.new


@pytest.fixture
def vms(_guest_factory: GuestFactory) -> LinkedVms:
    """A function that gives two guests with a cable between them: `a, b = vms("a", "b")`."""
    return _guest_factory.linked


@pytest.fixture
def vm(_guest_factory: GuestFactory, request: pytest.FixtureRequest) -> Vm:
    """A guest in its state right after boot."""
    guest = _guest_factory.new()
    following = request.config.stash.get(_NEXT, None)
    if following is not None and _same_cell(request.node, following):
        _guest_factory.prepare(_asked(following))
    return guest


def _same_cell(item: pytest.Item, other: pytest.Item) -> bool:
    """Whether a test that wants `vm` follows, of the same cell."""
    if not (isinstance(item, pytest.Function) and isinstance(other, pytest.Function)):
        return False
    # A test module may have a `vm` of its own, whose wishes nobody knows before.
    defined = other._fixtureinfo.name2fixturedefs.get("vm", ())
    if not defined or defined[-1].func.__module__ != __name__:
        return False
    return bool(item.callspec.params["cell"] is other.callspec.params["cell"])


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a guest's failure needs: the verdict, its console, how to boot it by hand."""
    report = yield
    if not item.get_closest_marker("vm"):
        return report
    from pytest_kernelvm.report.run import note_cell

    note_cell(report, item)
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
