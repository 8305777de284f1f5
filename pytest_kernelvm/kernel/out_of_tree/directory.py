"""Modules in a directory of the user, built against a stored kernel."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence
from pytest_kernelvm.fetch.tree_copy import content_digest, files_below, update_copy
from pytest_kernelvm.kernel.build.build import Kernel
from pytest_kernelvm.kernel.build.keys import PINNED
from pytest_kernelvm.kernel.build.make import compiler_diagnostics
from pytest_kernelvm.process import failure, run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.intact import require_intact_below
from pytest_kernelvm.store.kinds import OUT_OF_TREE_BUILDS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import raise_if_full, write_whole
from pytest_kernelvm.toolchain.compiler import compiler_environment, tool_variables

FILES = "files.json"
MAKE_TIMEOUT_S = 3600.0
# Suffixes of files that make leaves, if somebody has built in the directory itself.
_MADE = (".o", ".ko", ".cmd", ".mod", ".mod.c", ".symvers", ".order", ".d", ".o.d", ".a")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalModules:
    """Modules that were built.

    Attributes:
        files: The .ko files.
        said: Warnings of the compiler, a line each.
    """

    files: tuple[Path, ...]
    said: str


def sources_of(directory: Path) -> dict[str, str]:
    """Return digests of what is to be built in a directory.

    Args:
        directory: With a Kbuild or a Makefile.

    Returns:
        Digests by relative path.

    Raises:
        BadInput: There is nothing for kbuild.
    """
    if not any((directory / name).is_file() for name in ("Kbuild", "Makefile")):
        raise BadInput(
            f"{directory} holds no modules",
            Evidence(expected="a Kbuild or a Makefile with obj-m", where=(str(directory),)),
        )
    found = {}
    for name in files_below(directory):
        if not name.endswith(_MADE) and not name.endswith(("~", ".swp")):
            with contextlib.suppress(FileNotFoundError):
                found[name] = content_digest(directory / name)
    return found


def build_modules(
    store: Store, kernel: Kernel, directory: Path, *, jobs: int | None = None
) -> ExternalModules:
    """Build the modules of a directory against a kernel; nothing is written into the directory.

    What did not change since the last time is not compiled again.

    Raises BuildFailed if make failed; the error has what the compiler refused.

    Args:
        store: Where the directory is copied to and built.
        kernel: The kernel.
        directory: With a Kbuild or a Makefile.
        jobs: How many compilers run at once; None for one a core.

    Returns:
        The modules.

    Raises:
        BadInput: There is nothing to build, or the kernel is a finished one.
    """
    directory = directory.absolute()
    sources = sources_of(directory)
    with _copy(store, kernel, directory, sources) as copy:
        # The log is in the store, so that the objects beside it are there for the next build.
        log = copy.parent / "make.log"
        files, said = make_modules(store, kernel, copy, log=log, shown_as=directory, jobs=jobs)
    if not files:
        raise BadInput(
            f"{directory} makes no modules",
            Evidence(expected="obj-m += NAME.o", where=(str(directory),)),
        )
    warnings = [line for line in said.splitlines() if "warning: " in line]
    return ExternalModules(files=files, said="\n".join(warnings))


def make_modules(
    store: Store,
    kernel: Kernel,
    directory: Path,
    *,
    log: Path,
    shown_as: Path,
    jobs: int | None = None,
) -> tuple[tuple[Path, ...], str]:
    """Make the modules of a directory, in the directory.

    Raises BuildFailed if make failed; the error has what the compiler refused.

    Args:
        store: Where the compilers' scripts are.
        kernel: The kernel.
        directory: Where the sources are, and the modules afterwards.
        log: Where make's output goes; answers of the compiler are put beside it.
        shown_as: The directory to name in messages instead.
        jobs: How many compilers run at once; None for one a core.

    Returns:
        The .ko files, and make's output.

    Raises:
        BadInput: The kernel is a finished one.
    """
    if not kernel.devel.is_dir():
        raise BadInput(
            f"nothing can be built against {kernel.release}: it is a finished kernel",
            Evidence(next_step="name a cell whose kernel is built here"),
        )
    log.unlink(missing_ok=True)
    require_intact_below(kernel.devel)
    env = PINNED | compiler_environment(store, kernel.arch, kernel.llvm, answers=log.parent)
    argv = _make_argv(kernel, directory, jobs)
    done = run(argv, env=env, timeout_s=MAKE_TIMEOUT_S, check=False, log=log)
    said = log.read_text(errors="replace").replace(str(directory), str(shown_as))
    if done.status != 0:
        raise_if_full(said)
        failed = _build_failed(kernel, shown_as, said, failure(done, log))
        raise failed
    listed = (directory / "modules.order").read_text().split()
    return tuple(_ko(directory, name) for name in listed), said


def _make_argv(kernel: Kernel, directory: Path, jobs: int | None) -> list[str]:
    return [
        "make",
        f"--directory={kernel.devel}",
        f"M={directory}",
        f"ARCH={kernel.arch.linux_arch}",
        *tool_variables(kernel.arch, kernel.llvm),
        "LOCALVERSION=",
        f"-j{jobs or os.cpu_count() or 1}",
        "modules",
    ]


def _build_failed(kernel: Kernel, shown_as: Path, said: str, evidence: Evidence) -> BuildFailed:
    diagnostics = compiler_diagnostics(said, shown_as)
    return BuildFailed(
        f"{shown_as.name} does not compile for {kernel.release}",
        Evidence(
            seen=diagnostics[0] if diagnostics else evidence.seen,
            excerpt="\n".join(diagnostics) or evidence.excerpt,
            where=(str(shown_as),),
            command=evidence.command,
        ),
    )


def _ko(copy: Path, listed: str) -> Path:
    """modules.order names .o from 6.2 on (commit f65a486821cf) and .ko before, with full paths."""
    return (copy / listed).with_suffix(".ko")


@contextlib.contextmanager
def _copy(
    store: Store, kernel: Kernel, directory: Path, sources: Mapping[str, str]
) -> Iterator[Path]:
    """Give a copy of the directory that follows it, with what make left in it the last time."""
    name = digest_of([str(directory), kernel.digest])
    place = store.path(OUT_OF_TREE_BUILDS, name)
    with store.lock(f"{OUT_OF_TREE_BUILDS}-{name}", f"the modules of {directory}"):
        try:
            before = json.loads((place / FILES).read_bytes())
        except (OSError, ValueError):
            before = {}
        copy = place / "tree"
        copy.mkdir(parents=True, exist_ok=True)
        update_copy(directory, copy, sources, before)
        write_whole(place / FILES, json.dumps(dict(sources)).encode())
        yield copy
