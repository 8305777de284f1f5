"""Running a kernel's make, and what it says when it fails."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.errors import BuildFailed, Evidence
from pytest_kernelvm.kernel.build.build_directories import BuildDirectory
from pytest_kernelvm.kernel.build.incremental import PreviousKernel, link_tree, module_stamps
from pytest_kernelvm.kernel.kconfig import dot_config
from pytest_kernelvm.process import TAIL_LINES, failure, run
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import raise_if_full
from pytest_kernelvm.toolchain.compiler import compiler_environment

RELEASE_FILE = "include/config/kernel.release"

_REFUSED = re.compile(r"\berror: |undefined reference|multiple definition|^ERROR: modpost")
_COMPILED = re.compile(r"\s+(?:CC|AS|HOSTCC|LD|AR|CC \[M\]|LD \[M\])\s+(\S.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeRun:
    """How make is run for one kernel.

    Attributes:
        config: The cell.
        tree: The source.
        files: Digests of the source's files where they may change, else None.
        variables: Words of make's command line.
        env: What is added to the environment.
        directory: Where it builds, make's O=.
        log: Of this run.
        failure_log: Where the log is copied if make fails.
        jobs: How many compilers run at once.
    """

    config: CellConfig
    tree: Path
    files: Mapping[str, str] | None
    variables: tuple[str, ...]
    env: dict[str, str]
    directory: Path
    log: Path
    failure_log: Path
    jobs: int

    def moved_to(self, store: Store, build_directory: BuildDirectory) -> MakeRun:
        """Return the same for a build directory, with what the compiler answered there.

        Args:
            store: Where the compilers' scripts are.
            build_directory: Where to build.

        Returns:
            How make is run there.
        """
        arch, llvm = self.config.arch, self.config.kernel.llvm
        env = compiler_environment(store, arch, llvm, answers=build_directory.objects)
        return replace(
            self,
            tree=build_directory.tree,
            directory=build_directory.objects,
            env={**self.env, **env},
        )

    def make_argv(self, *goals: str) -> list[str]:
        """Return make's command line for some goals."""
        return [
            "make",
            f"--directory={self.tree}",
            f"O={self.directory}",
            *self.variables,
            f"-j{self.jobs}",
            *goals,
        ]

    def make(self, *goals: str, on_line: Any = None) -> None:
        """Run make.

        Raises BuildFailed if make failed; the error has what the compiler refused.

        Args:
            goals: make's targets, and further variables.
            on_line: Called with each line that make prints.
        """
        done = run(
            self.make_argv(*goals),
            env=self.env,
            timeout_s=self.config.timeouts.build_s,
            check=False,
            log=self.log,
            on_line=on_line,
        )
        if done.status != 0:
            self._failed(done, goals)

    def _failed(self, done: Any, goals: Sequence[str]) -> None:
        evidence = failure(done, self.log)
        raise_if_full(evidence.excerpt)
        self.failure_log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.log, self.failure_log)
        diagnostics = compiler_diagnostics(self.log.read_text(errors="replace"), self.tree)
        raise BuildFailed(
            f"{self.config.id}: make {' '.join(goals)} {evidence.seen}",
            Evidence(
                seen=diagnostics[0] if diagnostics else evidence.seen,
                excerpt="\n".join(diagnostics) or evidence.excerpt,
                where=(str(self.failure_log),),
                command=evidence.command,
            ),
        )


def compiler_diagnostics(log: str, tree: Path) -> tuple[str, ...]:
    """Return what compiler, assembler and linker refuse in a build's log, with the code they show.

    Args:
        log: The output of make.
        tree: The source, whose path is left out of the lines.

    Returns:
        Lines, at most as many as an error shows.
    """
    lines = re.sub(r"^\.\./", "", log.replace(f"{tree}/", ""), flags=re.MULTILINE).splitlines()
    shown: list[str] = []
    for number, line in enumerate(lines):
        if _REFUSED.search(line):
            code = [next_line for next_line in lines[number + 1 : number + 3] if " | " in next_line]
            shown += [line.strip(), *code]
    return tuple(shown[:TAIL_LINES])


def compile_kernel(store: Store, build: MakeRun, *, headers: bool) -> int:
    """Compile a kernel's images, modules and headers.

    Raises BuildFailed if make failed.

    Args:
        store: Where progress is shown.
        build: How make is run.
        headers: Whether `make headers` is to be run.

    Returns:
        How many files were compiled.
    """
    config = build.config
    started = time.monotonic()
    compiled = 0

    def count(line: str) -> None:
        nonlocal compiled
        if found := _COMPILED.fullmatch(line):
            compiled += 1
            elapsed_s = time.monotonic() - started
            store.progress.update(
                f"building {config.id}: {compiled} files, {elapsed_s:.0f} s, {found[1]}"
            )

    store.progress.say(f"building {config.id} with {build.jobs} jobs")
    symbols = dot_config.parse_config((build.directory / ".config").read_text())
    goals = [*config.kernel.images]
    if symbols.get("MODULES") == "y":
        goals.append("modules")
    if headers:
        goals.append("headers")
    build.make(*goals, on_line=count)
    return compiled


def install_modules(build: MakeRun, previous: PreviousKernel | None, installed: Path) -> None:
    """Install a kernel's modules; if they are those of the previous build, they are linked.

    Raises BuildFailed if make failed.

    Args:
        build: How make is run.
        previous: The kernel that was made last in the build directory.
        installed: Where modules are put: INSTALL_MOD_PATH.
    """
    symbols = dot_config.parse_config((build.directory / ".config").read_text())
    if symbols.get("MODULES") != "y":
        return
    if previous and previous.modules == module_stamps(build.directory):
        link_tree(previous.entry / "modules", installed)
    else:
        build.make(f"INSTALL_MOD_PATH={installed}", "modules_install")
