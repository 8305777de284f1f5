"""A kernel's source and final .config, before anything is compiled."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.kernel.build.keys import PINNED, make_variables, request_key
from pytest_kernelvm.kernel.build.make import MakeRun
from pytest_kernelvm.kernel.kconfig import dot_config
from pytest_kernelvm.kernel.kconfig.conf_programs import (
    cached_shell_environment,
    install_conf_programs,
)
from pytest_kernelvm.kernel.kconfig.requests import requests_of
from pytest_kernelvm.kernel.kconfig.session import KconfigSession
from pytest_kernelvm.kernel.source.mirror import mirrored
from pytest_kernelvm.kernel.source.source import LocatedSource, kernel_version, locate, patched_for
from pytest_kernelvm.kernel.source.worktree import WorkingTree
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import CONFIGS, LOGS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import read_checksummed, write_checksummed
from pytest_kernelvm.toolchain.compiler import compiler_environment, compiler_version
from pytest_kernelvm.toolchain.config_tools import (
    missing_tool_notes,
    needed_tools,
    require_tools,
    tool_versions,
)


@contextlib.contextmanager
def source_tree(
    store: Store, located: LocatedSource, config: CellConfig
) -> Iterator[tuple[Path, Mapping[str, str] | None]]:
    """Give the tree of a source with a cell's patches.

    Of a working tree it is a copy, which stays as it is until the context is left.

    Args:
        store: Where it is unpacked or copied to.
        located: The source.
        config: The cell.

    Yields:
        The tree, and digests of its files by relative path if they may change, else None.
    """
    if isinstance(located, WorkingTree):
        patches = config.kernel.patches_for(kernel_version(located.path))
        with mirrored(store, located, patches) as mirror:
            yield mirror.tree, mirror.files
    else:
        yield patched_for(store, located, config.kernel), None


def make_run_in(
    store: Store, config: CellConfig, tree: Path, directory: Path, jobs: int | None = None
) -> MakeRun:
    """Return how make is run for a cell's kernel, in a directory of its own.

    Args:
        store: Where the compilers' scripts and logs are put.
        config: The cell.
        tree: Its source.
        directory: Where to build; it may be empty.
        jobs: How many compilers run at once; None for one a core.

    Returns:
        The variables, the environment and the paths of make.
    """
    return MakeRun(
        config=config,
        tree=tree,
        files=None,
        variables=make_variables(config, _expected_tools(config, tree)),
        env={
            **PINNED,
            **compiler_environment(store, config.arch, config.kernel.llvm, answers=directory),
            "CCACHE_STATSLOG": str(directory / "ccache.log"),
        },
        directory=directory / "build",
        log=directory / "build.log",
        failure_log=store.place(LOGS) / f"{config.id}.log",
        jobs=jobs or os.cpu_count() or 1,
    )


@contextlib.contextmanager
def open_kconfig_session(store: Store, config: CellConfig) -> Iterator[KconfigSession]:
    """Give a cell's configuration, in a build directory that is gone afterwards.

    Nothing of the kernel is compiled.

    Raises ToolMissing if a program or the source is not installed, BadInput if the vm-config does
    not fit the source, BuildFailed if a patch does not apply, or make failed.

    Args:
        store: Where the source is.
        config: The cell.

    Yields:
        The session, in which nothing is configured yet.
    """
    name = f"configuring-{config.id}"
    with store.lock(name, f"the configuration of {config.id}"):
        located = locate(store, config.kernel.source)
        with (
            source_tree(store, located, config) as (tree, files),
            store.work(name) as work,
        ):
            build = replace(make_run_in(store, config, tree, work.directory), files=files)
            compiler = compiler_version(config.arch, config.kernel.llvm)
            _install_conf_programs(store, build, compiler)
            yield _configuration(store, build)


def _expected_tools(config: CellConfig, tree: Path) -> frozenset[str]:
    """Return which programs a cell's configuration may need, before there is one.

    Programs that are hidden from conf would have it drop what depends on them.

    Returns:
        Names of programs, by base and requests.
    """
    base = Path(config.kernel.base)
    if not base.is_file():
        base = tree / "arch" / config.arch.linux_arch / "configs" / config.kernel.base
    try:
        values = dot_config.parse_config(base.read_text(errors="replace"))
    except OSError:
        values = {}
    requests = requests_of(config.kernel, kernel_version(tree))
    return needed_tools(values | {name: each.value for name, each in requests.items()})


def final_config(
    store: Store, build: MakeRun, located: LocatedSource, compiler: str, version: str
) -> str:
    """Return the .config that was made before from the same, or make it.

    After an edit that can't decide a configuration nothing is configured again.

    Raises ConfigLost if a symbol that was asked for is not in it.

    Args:
        store: Where it is recorded.
        build: How make is run.
        located: The source.
        compiler: The compiler's version.
        version: The source's.

    Returns:
        The text of the .config.
    """
    config = build.config
    key = request_key(config, located.config_digest, compiler)
    tools = tool_versions(build.variables)
    noted = store.place(CONFIGS) / digest_of([key, build.variables, *tools])
    if known := read_checksummed(noted):
        return known.decode()
    store.progress.say(f"configuring {config.id} ({version})")
    _configure(store, build, compiler)
    final = (build.directory / ".config").read_text()
    write_checksummed(noted, final.encode())
    return final


def _configuration(store: Store, build: MakeRun) -> KconfigSession:
    return KconfigSession(
        kernel=build.config.kernel,
        arch=build.config.arch,
        label=build.config.id,
        version=kernel_version(build.tree),
        tree=build.tree,
        directory=build.directory,
        make=_with_shared_answers(store, build, answers_of(build)),
    )


def answers_of(build: MakeRun) -> Path:
    """Return where the answers to conf's questions are during a build."""
    return build.directory.with_name("conf-answers")


def _with_shared_answers(store: Store, build: MakeRun, answers: Path) -> MakeRun:
    environment = cached_shell_environment(store, build.config.kernel.llvm, answers)
    return replace(build, env={**build.env, **environment})


def _install_conf_programs(store: Store, build: MakeRun, compiler: str) -> None:
    """Put conf and its answers into a build directory, if the source never changes."""
    if build.files is not None:
        return

    def configure(directory: Path, answers: Path) -> None:
        there = replace(build, directory=directory)
        _with_shared_answers(store, there, answers).make("allnoconfig")

    tools = tool_versions(build.variables)
    decided_by = (str(build.tree.resolve()), compiler, *build.variables, *tools)
    install_conf_programs(store, decided_by, build.directory, answers_of(build), configure)


def _configure(store: Store, build: MakeRun, compiler: str) -> None:
    _install_conf_programs(store, build, compiler)
    configuration = _configuration(store, build)
    decision = configuration.configure()
    if decision.lost:
        # A symbol that is lost because a program is missing has no explanation in Kconfig.
        lost = {request.name: request for request in decision.lost}
        values = {name: request.value for name, request in lost.items()}
        require_tools(build.config.id, values, lost, where=build.config.kernel.base)
        store.progress.say(f"explaining what {build.config.id} has lost")
        raise configuration.explain(decision)
    changed = configuration.changed_from_base(decision)
    if changed:
        base = build.config.kernel.base
        store.progress.say(
            f"{len(changed)} symbols have other values than in {base}; "
            f"`kernelvm config diff {base} {build.config.id}` shows them"
        )
        for note in missing_tool_notes(changed):
            store.progress.say(note)
    for request in decision.dropped:
        store.progress.say(f"{build.config.id} is built without {request}, {request.where}")
