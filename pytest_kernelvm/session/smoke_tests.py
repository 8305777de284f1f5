"""Smoke tests of out-of-tree modules: they are built, loaded in a fresh guest and unloaded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.errors import CommandFailed, Evidence, GuestHang, KernelvmError
from pytest_kernelvm.kernel.out_of_tree.compat import config_near, require_fit, symbols
from pytest_kernelvm.kernel.out_of_tree.directory import ExternalModules, build_modules
from pytest_kernelvm.modules.modinfo import read_modinfo
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.vm.klog.ktap import TestResults, first_lines, read_results, without_time
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.machine.vm import Vm

DIRECTORY = "/modules"
INSMOD, RMMOD = f"{DIRECTORY}/insmod", f"{DIRECTORY}/rmmod"
# Lines of results in an error: it fits one screen.
MOST_LINES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleSmokeTest:
    """What a smoke test of modules found.

    Attributes:
        modules: Their names, in load order.
        log: The kernel's log from the loading of the first to the unloading of the last.
        staying: For each module that cannot be unloaded, a line that says why.
        results: What tests in the modules reported in KTAP, None if there are no tests.
        build_s: Seconds that the build took; 0 for modules that were built before.
        guest_s: Seconds that booting, loading and unloading took.
    """

    modules: tuple[str, ...]
    log: tuple[str, ...]
    staying: tuple[str, ...]
    results: TestResults | None
    build_s: float
    guest_s: float


def build_for(cell: Cell, directory: Path) -> ExternalModules:
    """Build a directory's modules for a cell.

    A compiler that fails raises BuildFailed, and so do modules that do not fit the cell's kernel.

    Args:
        cell: The cell; its kernel is built if need be.
        directory: A directory with a Kbuild or Makefile.

    Returns:
        The modules and what the compiler said.
    """
    built = build_modules(cell.store, cell.kernel, directory)
    require_fit(cell.kernel, built.files)
    return built


def in_load_order(files: Sequence[Path]) -> tuple[tuple[Path, tuple[str, ...]], ...]:
    """Return modules in an order in which they can be loaded.

    Args:
        files: The .ko files of one build.

    Returns:
        Each file, behind those of the same build that it depends on, with the names of all modules
        that it depends on.
    """
    depends = {file: _depends(file) for file in files}
    by_name = {_name(file): file for file in files}
    order: dict[Path, None] = {}

    def visit(file: Path, above: tuple[Path, ...]) -> None:
        for name in depends[file]:
            if name in by_name and by_name[name] not in above:
                visit(by_name[name], (*above, file))
        order.setdefault(file)

    for file in files:
        visit(file, ())
    return tuple((file, depends[file]) for file in order)


def _name(file: Path) -> str:
    return _own_name(file.stem)


def _depends(file: Path) -> tuple[str, ...]:
    fields = dict(read_modinfo(file))
    # modpost writes the names of files; those of modules have underscores (scripts/mod/modpost.c,
    # add_depends).
    return tuple(_own_name(name) for name in fields.get("depends", "").split(",") if name)


def _own_name(name: str) -> str:
    return name.replace("-", "_")


def try_modules(
    cell: Cell,
    directory: Path,
    logs: Path,
    *,
    options: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> ModuleSmokeTest:
    """Build a directory's modules, load them all in a fresh guest, and unload them.

    A build that fails raises BuildFailed. A module that cannot be loaded or unloaded, and a test of
    a module that fails, raise CommandFailed with the kernel's log or the results. A guest that dies
    raises the error with its verdict.

    Args:
        cell: The cell that they are built for.
        directory: A directory with a Kbuild or Makefile.
        logs: A directory for the guest's logs.
        options: Module parameters by the name of the module.
        timeout_s: Seconds that loading or unloading one module may take; None for the time of any
            command.

    Returns:
        What the test found.
    """
    started = time.monotonic()
    files = build_for(cell, directory).files
    built_s = time.monotonic() - started
    return replace(_load_and_unload(cell, files, logs, options or {}, timeout_s), build_s=built_s)


def try_files(
    cell: Cell,
    files: Sequence[Path],
    logs: Path,
    *,
    options: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> ModuleSmokeTest:
    """Load modules that were built elsewhere in a fresh guest, and unload them.

    Modules that do not fit the cell's kernel raise BuildFailed before anything boots. For other
    errors see `try_modules`.

    Args:
        cell: The cell whose kernel loads them.
        files: The .ko files.
        logs: A directory for the guest's logs.
        options: Module parameters by the name of the module.
        timeout_s: Seconds that loading or unloading one module may take; None for the time of any
            command.

    Returns:
        What the test found.
    """
    require_fit(cell.kernel, files, config=config_near(files))
    return _load_and_unload(cell, files, logs, options or {}, timeout_s)


def _load_and_unload(
    cell: Cell,
    files: Sequence[Path],
    logs: Path,
    options: Mapping[str, str],
    timeout_s: float | None,
) -> ModuleSmokeTest:
    started = time.monotonic()
    ordered = in_load_order(files)
    names = tuple(_name(file) for file, _depends in ordered)
    dependencies = tuple(
        dict.fromkeys(name for _file, depends in ordered for name in depends if name not in names)
    )
    bootable = cell.bootable(modules=dependencies, files=_packed(cell, files))
    staying = dict(_staying(cell, ordered))
    with boot_guest(bootable, logs) as vm:
        vm.control.answer_for()
        if dependencies:
            vm.modprobe("-a", *dependencies)
        programs = _ModulePrograms(vm, timeout_s)
        for file, _depends_on in ordered:
            programs.load(file, options.get(_name(file), ""))
        for file, _depends_on in reversed(ordered):
            if file not in staying:
                programs.unload(file)
        if error := vm.control.conclude("loading and unloading modules", ask=True):
            raise error
        log = programs.kernel_log()
    results = read_results(log)
    if results and results.problems:
        raise _tests_failed(cell.config.id, names, results)
    return ModuleSmokeTest(
        modules=names,
        log=log,
        staying=tuple(staying.values()),
        results=results,
        build_s=0.0,
        guest_s=time.monotonic() - started,
    )


def _packed(cell: Cell, files: Sequence[Path]) -> dict[str, bytes]:
    """Return what the guest has of the modules: their files, and what loads and unloads them."""
    program = cell.programs.modprobe.read_bytes()
    packed = {f"{DIRECTORY}/{file.name}": file.read_bytes() for file in files}
    return packed | {INSMOD: program, RMMOD: program}


def _staying(
    cell: Cell, ordered: Sequence[tuple[Path, tuple[str, ...]]]
) -> Iterator[tuple[Path, str]]:
    """Yield the modules that the kernel does not unload, with the reason in words.

    These have an init function and no exit function (kernel/module/main.c, delete_module), or are
    used by such a module.

    Yields:
        The file and a line with the reason.
    """
    in_use: dict[str, str] = {}
    for file, depends in reversed(ordered):
        name = _name(file)
        functions = symbols(cell.kernel, file, "--defined-only")
        if name in in_use:
            yield file, f"{name} stays loaded: {in_use[name]} uses it"
        elif "init_module" in functions and "cleanup_module" not in functions:
            yield file, f"{name} has no exit function and stays loaded"
        else:
            continue
        in_use |= dict.fromkeys(depends, name)


class _ModulePrograms:
    """The programs that load and unload modules in a guest, and what its kernel says meanwhile."""

    def __init__(self, vm: Vm, timeout_s: float | None) -> None:
        self._vm = vm
        self._timeout_s = timeout_s
        self._before = max((record.sequence for record in vm.dmesg.records), default=-1)
        self._console_before = len(vm.console.text)

    def load(self, file: Path, parameters: str) -> None:
        """Load a module. Raises CommandFailed, of tests that did not end with their results."""
        self._run(INSMOD, f"{DIRECTORY}/{file.name}", *parameters.split())

    def unload(self, file: Path) -> None:
        """Unload a module. Raises what `load` does."""
        self._run(RMMOD, _name(file))

    def _run(self, *argv: str) -> None:
        vm = self._vm
        try:
            result = vm.run(*argv, timeout_s=self._timeout_s)
        except (CommandFailed, GuestHang) as error:
            # A guest that hangs is not asked for its log.
            lines = map(without_time, vm.console.text[self._console_before :].splitlines())
            results = read_results(lines)
            if not results or not results.problems:
                raise
            raise _tests_failed(vm.label, [Path(argv[1]).stem], results, error) from None
        if result.status != 0:
            said = (result.output + result.errors, *self.kernel_log())
            raise CommandFailed(
                f"{vm.label}: {Path(argv[0]).name} {Path(argv[1]).name} failed",
                Evidence(expected="status 0", seen=result.ended, excerpt="\n".join(said).strip()),
            )

    def kernel_log(self) -> tuple[str, ...]:
        """Return the lines of the kernel's log since the beginning."""
        records = [each for each in self._vm.dmesg.records if each.sequence > self._before]
        return tuple(line for record in records for line in record.text.split("\n"))


def _tests_failed(
    label: str, names: Iterable[str], results: TestResults, error: KernelvmError | None = None
) -> CommandFailed:
    """Return the error of tests that failed.

    Args:
        label: The guest or cell.
        names: The modules whose tests failed.
        results: The results of the tests.
        error: What else went wrong in the guest, None if nothing did.

    Returns:
        The error.
    """
    return CommandFailed(
        f"{label}: the tests of {', '.join(sorted(names))} failed",
        Evidence(
            expected="each test ok or skipped, and as many as were planned",
            seen=str(results),
            facts=(str(error.summary), *error.evidence.facts) if error else (),
            where=error.evidence.where if error else (),
            excerpt="\n".join(first_lines(results, MOST_LINES)),
            next_step="give a longer --timeout for tests that take long" if error else "",
        ),
    )
