"""The compiler as a build meets it: under its own name, but blind to where the build happens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch import Arch
from pytest_kernelvm.kernel.store import Store, Work, digest_of
from pytest_kernelvm.process import find_program, run

KIND = "compilers"

# Debug information is never absent: the vDSO has some (arch/mips/vdso/Makefile), and its build ID,
# which the kernel holds, is a digest over it. So the source's path in it, which is the directory
# above the build's (see kept.py), is given a name that is the same everywhere.
BLIND = "-fdebug-prefix-map=${PWD%/*}=/kernelvm"


def compiler_version(arch: Arch) -> str:
    """Return the first lines of the compiler's and linker's --version, native or cross.

    Raises ToolMissing if the cross compiler is not installed.
    """
    hint = f"apt-get install {arch.debian_packages[0]}"
    lines = []
    for tool in ("gcc", "ld"):
        program = find_program(f"{arch.toolchain_prefix}{tool}", hint)
        lines.append(run([program, "--version"], timeout_s=30).stdout.partition("\n")[0])
    return "; ".join(lines)


def compiler_directory(store: Store, arch: Arch) -> Path:
    """Return a directory for the head of PATH, with a program that stands for the compiler.

    It adds one flag, so that what is built does not depend on the build directory's path, and goes
    through ccache where that is installed. kbuild's notes keep the compiler's plain name: it must
    neither see the flag (Kconfig compares $(CC) with what it noted, and a path would differ in a
    copied build directory) nor the program's path.
    """
    name = f"{arch.toolchain_prefix}gcc"
    program = find_program(name)
    ccache = shutil.which("ccache")
    lines = [
        "#!/bin/sh",
        f'exec {ccache or ""} {program} "$@" "{BLIND}"',
    ]
    text = "".join(f"{line}\n" for line in lines)

    def make(work: Work) -> dict[str, Any]:
        script = work.entry / name
        script.write_text(text)
        script.chmod(0o755)
        return {"compiler": program, "ccache": ccache or ""}

    return store.obtain(KIND, digest_of([name, text]), make, label=f"the compiler {name}")


def ccache_summary(log: Path) -> str:
    """Return how much of a build came from ccache, empty if nothing was asked of it.

    log: what ccache wrote for CCACHE_STATSLOG: a comment and counters for each call (ccache(1)).
    """
    try:
        counters = log.read_text(errors="replace").split()
    except OSError:
        return ""
    hits = counters.count("direct_cache_hit") + counters.count("preprocessed_cache_hit")
    misses = counters.count("cache_miss")
    return f"ccache had {hits} of {hits + misses} objects" if hits + misses else ""
