"""The programs that decide a configuration, compiled once for each source, and what they ask.

Without this, every new build directory would compile fixdep and conf again, a dozen files, which
takes many times as long as conf itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_kernelvm.errors import Evidence, HarnessError
from pytest_kernelvm.kernel.kconfig import shell_cache
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import CONF_PROGRAMS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.toolchain.compiler import host_compiler

# Where scripts/kconfig/Makefile and scripts/basic/Makefile have them made.
DIRECTORIES = ("scripts/basic", "scripts/kconfig")
# The directory of an entry for what shell_cache.c stores.
ANSWERS = "answers"
# More than the temporary files of the compiler take for one question.
LEAST_FREE_BYTES = 1 << 20


def install_conf_programs(
    store: Store,
    inputs: Sequence[str],
    directory: Path,
    answers: Path,
    configure: Callable[[Path, Path], None],
) -> None:
    """Put the compiled programs of a source into a build directory, where make takes them as fresh.

    The answers of the shell to their first questions are put beside. Raises HarnessError where the
    compiler had no room for its files, and what `configure` raises.

    Args:
        store: Where the programs are kept.
        inputs: All that programs and answers depend on: the source, in the store, where it never
            changes, as kbuild's .cmd files have its path; make's variables; the versions of the
            tools.
        directory: The build directory (make's O=).
        answers: The directory for answers, as for `cached_shell_environment`.
        configure: Lets make configure anything, in a build directory, with a directory for answers.
    """

    def make(work: StagingDirectory) -> dict[str, str]:
        made = work.directory / "build"
        made.mkdir()
        configure(made, work.entry / ANSWERS)
        _refuse_full_disk()
        _copy(made, work.entry)
        return {"source": Path(inputs[0]).name}

    digest = digest_of([*inputs])
    entry = store.obtain(CONF_PROGRAMS, digest, make, label="the kernel's configuration programs")
    _copy(entry, directory)
    # Those in the store are read-only; make has to be able to replace these.
    for copy in directory.glob("scripts/*/**/*"):
        copy.chmod(copy.stat().st_mode | 0o200)
    shutil.copytree(entry / ANSWERS, answers, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _refuse_full_disk() -> None:
    """Raise HarnessError where the compiler has no room, so that answers may be wrong."""
    # Kconfig throws away the compiler's words about it (scripts/Kconfig.include, if-success). gcc
    # puts its files where TMPDIR says (gcc(1)).
    directory = Path(os.environ.get("TMPDIR") or "/tmp")
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < LEAST_FREE_BYTES:
        raise HarnessError(
            f"{directory} is full: what the compiler can do cannot be found out",
            Evidence(
                expected=f"{LEAST_FREE_BYTES} bytes for its temporary files",
                seen=f"{free_bytes} bytes",
                next_step="make room there, or set TMPDIR to another directory",
            ),
        )


def cached_shell_environment(store: Store, llvm: str, directory: Path) -> dict[str, str]:
    """Return the environment in which conf and Kconfiglib ask the shell nothing twice.

    Raises ToolMissing where there is no compiler for this machine.

    Args:
        store: Where the library is kept that caches the answers.
        llvm: As in the vm-config; it decides the compiler for this machine.
        directory: For the answers. They are valid for one source, one set of make's variables and
            one version of the tools.
    """
    compiler = host_compiler(llvm)

    def make(work: StagingDirectory) -> dict[str, str]:
        library = work.entry / shell_cache.LIBRARY
        flags = ("-shared", "-fPIC", "-O2")
        run([compiler, *flags, "-o", library, shell_cache.SOURCE], timeout_s=60)
        return {"compiler": compiler}

    digest = digest_of([compiler, shell_cache.SOURCE.read_text()])
    entry = store.obtain(CONF_PROGRAMS, digest, make, label="the memory of conf's questions")
    return shell_cache.cache_environment(directory, entry / shell_cache.LIBRARY)


def _copy(made: Path, directory: Path) -> None:
    """Copy the programs with their times, by which make goes."""
    for name in DIRECTORIES:
        if (made / name).is_dir():
            shutil.copytree(made / name, directory / name)
