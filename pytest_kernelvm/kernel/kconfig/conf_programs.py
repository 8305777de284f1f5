"""The programs that decide a configuration, compiled once for each source, and what they ask.

Every new build directory would compile fixdep and conf again, a dozen files, before conf answers in
a fraction of that time.
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
# In an entry, what shell_cache.c kept.
ANSWERS = "answers"
# More than a compiler's temporary files take for a question.
LEAST_FREE_BYTES = 1 << 20


def install_conf_programs(
    store: Store,
    inputs: Sequence[str],
    directory: Path,
    answers: Path,
    configure: Callable[[Path, Path], None],
) -> None:
    """Put the compiled programs of a source into a build directory, where make finds them fresh.

    What they were answered when they first ran is put beside.
    inputs: all that programs and answers come of: the source, in the store, where it never
    changes, as kbuild's .cmd files name its path; make's variables; the version of the tools.
    directory: make's O=. answers: as for `cached_shell_environment`.
    configure: has make configure anything in a build directory, with a directory for answers.
    Raises what `configure` does, HarnessError where the compiler had no room for its files.
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
    # The store's are read-only; who is of another mind must be able to replace these.
    for copy in directory.glob("scripts/*/**/*"):
        copy.chmod(copy.stat().st_mode | 0o200)
    shutil.copytree(entry / ANSWERS, answers, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _refuse_full_disk() -> None:
    """Raise HarnessError where answers may be a no only because the compiler had no room.

    Kconfig throws away what it says to that (scripts/Kconfig.include, if-success). gcc puts its
    files where TMPDIR says (gcc(1)).
    """
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

    llvm: as in the vm-config, as it decides the host's compiler. directory: for the answers, which
    hold for one source, one set of make's variables and one version of the tools.
    Raises ToolMissing where there is no compiler for this machine.
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
