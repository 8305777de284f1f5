"""Answers of the shell to Kconfig's questions, which conf asks once and Kconfiglib never again.

shell_cache.c says why, and what the files are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ANSWERS = "KERNELVM_ANSWERS"
PRELOAD = "LD_PRELOAD"
SOURCE = Path(__file__).with_name("shell_cache.c")
LIBRARY = "conf_answers.so"


def cache_environment(directory: Path, library: Path) -> dict[str, str]:
    """Return the environment in which conf asks the shell nothing twice.

    Args:
        directory: For the answers; it is made.
        library: shell_cache.c, compiled for this machine.
    """
    directory.mkdir(parents=True, exist_ok=True)
    others = os.environ.get(PRELOAD, "")
    return {
        ANSWERS: str(directory),
        # Its members are separated by spaces or colons (ld.so(8)).
        PRELOAD: f"{library}:{others}" if others else str(library),
    }


def _file_name(question: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in question:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def cached_answer(question: str) -> str | None:
    """Return what the shell answered conf in this environment; None if conf did not ask.

    Args:
        question: The command.
    """
    raw = question.encode()
    directory = os.environ.get(ANSWERS)
    if not directory:
        return None
    try:
        stored, _, answer = Path(directory, _file_name(raw)).read_bytes().partition(b"\0")
    except OSError:
        return None
    return answer.decode(errors="replace") if stored == raw else None


def _shell(kconfig: Any, name: str, command: str) -> str:
    """What Kconfiglib's own $(shell) returns, unless conf had the same question."""
    # It is not needed only to build.
    import kconfiglib

    answer = cached_answer(command)
    if answer is None:
        return str(kconfiglib._shell_fn(kconfig, name, command))
    return answer.rstrip("\n").replace("\n", " ")


# Kconfiglib takes its users' functions from the module that KCONFIG_FUNCTIONS names.
functions = {"shell": (_shell, 1, 1)}
