"""The compiler as builds call it: under its own name, through a wrapper that adds one flag.

The flag keeps the path of the build directory out of what is built.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import Evidence, ToolMissing
from pytest_kernelvm.foreign.elf import is_built_for
from pytest_kernelvm.process import find_program, quoted, run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import COMPILERS
from pytest_kernelvm.store.store import StagingDirectory, Store

# No kernel is without debug information: the vDSO has some (arch/mips/vdso/Makefile), and its build
# ID, which the kernel contains, is a digest over it. So the path of the source in it, which is the
# directory above the build's (see build_directories.py), is replaced by one that never changes.
PREFIX_MAP_FLAG = "-fdebug-prefix-map=${PWD%/*}=/kernelvm"


# At each start of make, kbuild tries some 70 flags, one after the other, to find out whether the
# compiler knows them (scripts/Makefile.compiler, cc-option). The wrapper stores each answer in the
# directory that this variable names, one file a flag, and gives it again next time. The directory
# belongs to one compiler. A failure is stored only if the compiler said that it does not know the
# flag, because other things, such as a full disk, make it fail too.
ANSWERS_VARIABLE = "KERNELVM_ASKED"
_WRAPPER = """\
#!/bin/sh
# {identity}
case "${variable}:$*" in
:*) ;;
*:-Werror\\ *' -c -x c /dev/null -o '*tmp)
	asked=${{*%% -o *}}
	flag=${{asked% -c -x c /dev/null}}
	flag=${{flag##* }}
	case $flag:$asked in
	*\\'* | */*:*) ;;
	*)
		[ ! -f "${variable}/$flag" ] || . "${variable}/$flag"
		if said=$(LC_ALL=C "{program}" "$@" "{prefix_map}" 2>&1); then
			status=0
		else
			status=$?
			echo "$said" >&2
			case $said in
			*unrecognized*|*"unknown argument"*|*"unknown warning option"*) ;;
			*) exit $status ;;
			esac
		fi
		mkdir -p "${variable}"
		printf "[ \\"\\$asked\\" != '%s' ] || exit %s\\n" "$asked" $status >>"${variable}/$flag"
		exit $status
		;;
	esac
	;;
esac
exec {ccache} "{program}" "$@" "{prefix_map}"
"""


def compiler_name(arch: Arch, llvm: str = "") -> str:
    """Return the name of the compiler, native or cross.

    Args:
        arch: The architecture that it compiles for.
        llvm: The value of make's LLVM= (Documentation/kbuild/llvm.rst): `1`, or a suffix of LLVM's
            programs such as `-16`; empty for gcc.
    """
    prefix = "" if llvm else arch.toolchain_prefix
    return f"{prefix}{host_compiler(llvm)}"


def host_compiler(llvm: str = "") -> str:
    """Return the name of the compiler for programs that run here (HOSTCC in the kernel's Makefile).

    Args:
        llvm: As in `compiler_name`.
    """
    return f"clang{llvm_suffix(llvm)}" if llvm else "gcc"


def llvm_suffix(llvm: str) -> str:
    """Return the suffix of the names of LLVM's programs, empty where they have none.

    Args:
        llvm: As in `compiler_name`.
    """
    return llvm if llvm.startswith("-") else ""


def tool_variables(arch: Arch, llvm: str = "") -> tuple[str, ...]:
    """Return the settings that tell make which compiler and binutils to use.

    Args:
        arch: The architecture that is compiled for.
        llvm: As in `compiler_name`.
    """
    cross = f"CROSS_COMPILE={arch.toolchain_prefix}"
    return (cross, f"LLVM={llvm}") if llvm else (cross,)


def compiler_version(arch: Arch, llvm: str = "") -> str:
    """Return the first lines of what compiler and linker print for --version.

    If one of the tools is not installed, ToolMissing is raised and names its package.

    Args:
        arch: The architecture that is compiled for.
        llvm: As in `compiler_name`.
    """
    if llvm:
        suffix = llvm_suffix(llvm)
        tools = (f"clang{suffix}", f"ld.lld{suffix}")
        hint = "apt-get install " + " ".join(f"{name}{suffix}" for name in ("clang", "lld", "llvm"))
        # The first of LLVM's other tools that a build calls.
        find_program(f"llvm-ar{suffix}", hint)
    else:
        tools = (f"{arch.toolchain_prefix}gcc", f"{arch.toolchain_prefix}ld")
        hint = f"apt-get install {arch.compiler_packages.apt}"
    lines = []
    for tool in tools:
        program = find_program(tool, hint)
        lines.append(run([program, "--version"], timeout_s=30).stdout.partition("\n")[0])
    return "; ".join(lines)


def require_arch(arch: Arch, llvm: str, directory: Path) -> None:
    """Check that the compiler makes object files for an architecture, by compiling an empty file.

    Args:
        arch: The architecture.
        llvm: As in `compiler_name`.
        directory: Where the object file is written.

    Raises:
        ToolMissing: The compiler fails, or compiles for another machine.
    """
    made = directory / "nothing.o"
    name = compiler_name(arch, llvm)
    argv: list[str | Path] = [name, "-x", "c", "-c", "-o", made, os.devnull]
    if llvm:
        argv[1:1] = [f"--target={arch.toolchain_prefix.rstrip('-')}"]
    done = run(argv, timeout_s=60, check=False)
    if done.status == 0 and is_built_for(made, arch):
        return
    raise ToolMissing(
        f"{name} does not compile for {arch.name}",
        Evidence(
            expected=f"ELF files of {arch.elf_class} bits, {arch.endianness}-endian, "
            f"machine {arch.elf_machine}",
            seen="another machine's" if done.status == 0 else f"status {done.status}",
            excerpt=done.stderr.strip(),
            where=(find_program(name),),
            command=quoted(argv),
            next_step="look which one comes first in PATH",
        ),
    )


def compiler_directory(store: Store, arch: Arch, llvm: str = "") -> Path:
    """Return the directory of the compiler's wrapper, to be put first in PATH.

    The wrapper has the compiler's own name. It adds one flag, so that what is built does not depend
    on the path of the build directory, and it calls the compiler through ccache where that is
    installed. Make gets neither flag nor path: Kconfig compares $(CC) with the text that it stored
    before, which would differ in a copied build directory.
    If the compiler is not installed, ToolMissing is raised.

    Args:
        store: Where the wrapper is stored.
        arch: The architecture that is compiled for.
        llvm: As in `compiler_name`.
    """
    name = compiler_name(arch, llvm)
    program = find_program(name)
    ccache = shutil.which("ccache") or ""
    about = Path(program).stat()
    text = _WRAPPER.format(
        variable=ANSWERS_VARIABLE,
        program=program,
        # Another program of this name gives other answers.
        identity=f"{about.st_size} bytes of {about.st_mtime_ns}",
        ccache=ccache,
        prefix_map=PREFIX_MAP_FLAG,
    )

    def make(work: StagingDirectory) -> dict[str, Any]:
        script = work.entry / name
        script.write_text(text)
        script.chmod(0o755)
        return {"compiler": program, "ccache": ccache}

    return store.obtain(COMPILERS, digest_of([name, text]), make, label=f"the compiler {name}")


def compiler_environment(
    store: Store, arch: Arch, llvm: str = "", *, answers: Path | None = None
) -> dict[str, str]:
    """Return the environment in which a kernel's make calls the wrapper.

    If the compiler is not installed, ToolMissing is raised.

    Args:
        store: Where the wrapper is stored.
        arch: The architecture that is compiled for.
        llvm: As in `compiler_name`.
        answers: A directory for the answers about flags, for the makes of one kernel; None to try
            all flags again.
    """
    directory = compiler_directory(store, arch, llvm)
    found = {"PATH": f"{directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    if answers:
        found[ANSWERS_VARIABLE] = str(answers / f".asked-{directory.name[:16]}")
    return found


def ccache_summary(log: Path) -> str:
    """Return how many objects of a build came from ccache, in words; empty if it was not used.

    Args:
        log: The file that ccache wrote for CCACHE_STATSLOG: a comment and counters for each call
            (ccache(1)).
    """
    try:
        counters = log.read_text(errors="replace").split()
    except OSError:
        return ""
    hits = counters.count("direct_cache_hit") + counters.count("preprocessed_cache_hit")
    misses = counters.count("cache_miss")
    return f"ccache had {hits} of {hits + misses} objects" if hits + misses else ""
