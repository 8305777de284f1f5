"""Programs of the host: where they are, and the environment that they get."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_kernelvm.errors import Evidence, ToolMissing

# A make that we call must not share the job server or the variables of a make that called us. What
# conf takes from its environment would be in no key (Documentation/kbuild/kconfig.rst).
_NOT_INHERITED = (
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CDPATH"),
    *("KCONFIG_ALLCONFIG", "KCONFIG_CONFIG", "KCONFIG_DEFCONFIG_LIST", "KCONFIG_WERROR"),
)


# Where programs are on a system whose users do not have them in PATH; scripts/depmod.sh looks there
# too.
ADMIN_DIRECTORIES = ("/usr/sbin", "/sbin")


def find_program(name: str, install_hint: str = "", *, places: Sequence[str] = ()) -> str:
    """Return the full path of a program.

    Args:
        name: A name to look up in PATH, or a path.
        install_hint: What the error tells the user to do.
        places: Directories that are searched after those of PATH.

    Raises:
        ToolMissing: None of them has it.
    """
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *places]))
    if path is None:
        raise ToolMissing(
            f"the program {name!r} is not installed",
            Evidence(
                expected=f"{name} in PATH",
                next_step=install_hint or "`kernelvm doctor` names the packages to install",
            ),
        )
    return path


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of children: ours without make's, in the C locale, plus `extra`.

    Args:
        extra: Wins over what our environment has; None for nothing.
    """
    env = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    env["LC_ALL"] = "C"
    env.update(extra or {})
    return env


def quoted(argv: Sequence[str | Path]) -> str:
    """Return a command as one line to paste into a shell."""
    return shlex.join(str(word) for word in argv)
