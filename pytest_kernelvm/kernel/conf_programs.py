"""The programs that decide a configuration, compiled once for each source, and what they ask.

Every new build directory would compile fixdep and conf again, a dozen files, before conf answers in
a fraction of that time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pytest_kernelvm.kernel import conf_answers
from pytest_kernelvm.kernel.compiler import host_compiler
from pytest_kernelvm.kernel.store import Store, Work, digest_of
from pytest_kernelvm.process import run

KIND = "conf"
# Where scripts/kconfig/Makefile and scripts/basic/Makefile have them made.
DIRECTORIES = ("scripts/basic", "scripts/kconfig")


def put_conf_programs(
    store: Store, tree: Path, llvm: str, directory: Path, configure: Callable[[Path], None]
) -> None:
    """Put the compiled programs of a source into a build directory, where make finds them fresh.

    tree: the source, in the store, where it never changes; kbuild's .cmd files name its path.
    llvm: as in the vm-config, as it decides the host's compiler. directory: make's O=.
    configure: has make configure anything in a build directory.
    Raises what `configure` does.
    """

    def make(work: Work) -> dict[str, str]:
        made = work.directory / "build"
        made.mkdir()
        configure(made)
        _copy(made, work.entry)
        return {"source": tree.name}

    digest = digest_of([str(tree.resolve()), llvm])
    entry = store.obtain(KIND, digest, make, label="the kernel's configuration programs")
    _copy(entry, directory)
    for copy in directory.glob("scripts/*/**/*"):
        # The store's are read-only; a make that is of another mind must be able to replace these.
        copy.chmod(copy.stat().st_mode | 0o200)


def asking_once(store: Store, llvm: str, directory: Path) -> dict[str, str]:
    """Return the environment in which conf and Kconfiglib ask the shell nothing twice.

    llvm: as in the vm-config, as it decides the host's compiler. directory: for the answers, which
    hold for one source and one set of make's variables.
    Raises ToolMissing where there is no compiler for this machine.
    """
    compiler = host_compiler(llvm)

    def make(work: Work) -> dict[str, str]:
        library = work.entry / conf_answers.LIBRARY
        flags = ("-shared", "-fPIC", "-O2")
        run([compiler, *flags, "-o", library, conf_answers.SOURCE], timeout_s=60)
        return {"compiler": compiler}

    digest = digest_of([compiler, conf_answers.SOURCE.read_text()])
    entry = store.obtain(KIND, digest, make, label="the memory of conf's questions")
    return conf_answers.answered_from(directory, entry / conf_answers.LIBRARY)


def _copy(made: Path, directory: Path) -> None:
    """Copy the programs with their times, by which make goes."""
    for name in DIRECTORIES:
        if (made / name).is_dir():
            shutil.copytree(made / name, directory / name)
