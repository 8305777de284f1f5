"""The compiler as a build meets it: under its own name, but blind to where the build happens."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import Evidence, ToolMissing
from pytest_kernelvm.process import find_program, quoted, run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.toolchain.elf_head import fits

KIND = "compilers"

# Debug information is never absent: the vDSO has some (arch/mips/vdso/Makefile), and its build ID,
# which the kernel holds, is a digest over it. So the source's path in it, which is the directory
# above the build's (see build_directories.py), is given a name that is the same everywhere.
PREFIX_MAP_FLAG = "-fdebug-prefix-map=${PWD%/*}=/kernelvm"


# At each start of make kbuild asks the compiler for some 70 flags, one after the other, whether it
# knows them (scripts/Makefile.compiler, cc-option). What was answered is answered again from the
# directory that this variable names, a file a flag; it belongs to one compiler. A no is kept if the
# compiler said that it does not know the flag: a full disk, say, makes it fail too.
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

    llvm: what make is told as LLVM=, a suffix of programs being one; empty for gcc
    (Documentation/kbuild/llvm.rst).
    """
    prefix = "" if llvm else arch.toolchain_prefix
    return f"{prefix}{host_compiler(llvm)}"


def host_compiler(llvm: str = "") -> str:
    """Return the name of the compiler for programs of this machine (Makefile, HOSTCC)."""
    return f"clang{llvm_suffix(llvm)}" if llvm else "gcc"


def llvm_suffix(llvm: str) -> str:
    """Return what the names of LLVM's programs end with, of what make is told as LLVM=."""
    return llvm if llvm.startswith("-") else ""


def tool_variables(arch: Arch, llvm: str = "") -> tuple[str, ...]:
    """Return the variables that name the tools to make."""
    cross = f"CROSS_COMPILE={arch.toolchain_prefix}"
    return (cross, f"LLVM={llvm}") if llvm else (cross,)


def compiler_version(arch: Arch, llvm: str = "") -> str:
    """Return the first lines of the compiler's and linker's --version.

    llvm: as in compiler_name. Raises ToolMissing if one of the tools is not installed.
    """
    if llvm:
        suffix = llvm_suffix(llvm)
        tools = (f"clang{suffix}", f"ld.lld{suffix}")
        hint = "apt-get install " + " ".join(f"{name}{suffix}" for name in ("clang", "lld", "llvm"))
        # The first of LLVM's other tools that a build asks for.
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
    """Compile nothing, and look whether what comes out is an architecture's.

    directory: for what comes out. Raises ToolMissing with the compiler's words if it is not.
    """
    made = directory / "nothing.o"
    name = compiler_name(arch, llvm)
    argv: list[str | Path] = [name, "-x", "c", "-c", "-o", made, os.devnull]
    if llvm:
        argv[1:1] = [f"--target={arch.toolchain_prefix.rstrip('-')}"]
    done = run(argv, timeout_s=60, check=False)
    if done.status == 0 and fits(made, arch):
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
    """Return a directory for the head of PATH, with a program that stands for the compiler.

    It adds one flag, so that what is built does not depend on the build directory's path, and goes
    through ccache where that is installed. kbuild's notes keep the compiler's plain name: it must
    neither see the flag (Kconfig compares $(CC) with what it noted, and a path would differ in a
    copied build directory) nor the program's path.
    """
    name = compiler_name(arch, llvm)
    program = find_program(name)
    ccache = shutil.which("ccache") or ""
    about = Path(program).stat()
    text = _WRAPPER.format(
        variable=ANSWERS_VARIABLE,
        program=program,
        # Another one of that name has other answers.
        identity=f"{about.st_size} bytes of {about.st_mtime_ns}",
        ccache=ccache,
        prefix_map=PREFIX_MAP_FLAG,
    )

    def make(work: StagingDirectory) -> dict[str, Any]:
        script = work.entry / name
        script.write_text(text)
        script.chmod(0o755)
        return {"compiler": program, "ccache": ccache}

    return store.obtain(KIND, digest_of([name, text]), make, label=f"the compiler {name}")


def compiler_environment(
    store: Store, arch: Arch, llvm: str = "", *, answers: Path | None = None
) -> dict[str, str]:
    """Return what makes a kernel's make take the program that stands for the compiler.

    answers: a directory for what the compiler answered, for makes of one kernel; None to ask again.
    """
    directory = compiler_directory(store, arch, llvm)
    found = {"PATH": f"{directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    if answers:
        found[ANSWERS_VARIABLE] = str(answers / f".asked-{directory.name[:16]}")
    return found


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
