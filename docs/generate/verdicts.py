"""The page of the verdicts: what each means, what to do, and which exceptions carry it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from pytest_kernelvm import errors
from pytest_kernelvm.errors import KernelvmError, Verdict

INTRODUCTION = """\
# Verdicts

Each failure has one verdict: the first word of its message, and the exit code of `kernelvm`. In a
test it is an exception of `pytest_kernelvm.errors`; all of them are a `KernelvmError`, with
`summary`, `verdict` and `evidence`. How a verdict is reached:
[Verdicts and evidence](../explanation/verdicts.md).
"""

# What a verdict means, and what its reader does next.
MEANING = {
    Verdict.PASSED: (
        "All that was asked for was done.",
        "Nothing.",
    ),
    Verdict.TEST_FAILED: (
        "The guest is well, and something was not as the test demands: an assertion, "
        "a command's status, a system call's error.",
        "Read the test's assertion and the output of the command. `kernelvm replay NAME` does the "
        "same again ([A failed test](../how-to/failed-test.md)).",
    ),
    Verdict.BAD_INPUT: (
        "A vm-config, an option, a marker, a module's name or a file is wrong. Nothing was built "
        "or booted for it.",
        "The message names file, line and column and says what is allowed.",
    ),
    Verdict.TOOL_MISSING: (
        "A program or a package that the work needs is not installed.",
        "`kernelvm doctor` names the package and the command that installs it.",
    ),
    Verdict.CONFIG_LOST: (
        "A symbol that was asked for is not in the final `.config`. Nothing was compiled.",
        "The message has the cause of each loss, and the lines that keep the symbol "
        "([A lost symbol](../how-to/lost-symbol.md)).",
    ),
    Verdict.BUILD_FAILED: (
        "The compiler, make or patch ended with an error.",
        "The message has the first error and the path of the whole log. A patch that does not "
        "apply is named with its file and hunk.",
    ),
    Verdict.LAUNCH_FAILED: (
        "QEMU did not start.",
        "The message has QEMU's own words. Often a device or option is missing in this version of "
        "QEMU; `kernelvm argv CELL` prints the command to paste.",
    ),
    Verdict.NO_OUTPUT: (
        "The guest wrote nothing to its console. Whether its kernel runs is told by the log in "
        "its memory.",
        "Look at the console's driver and the `console=` of the command line, then at the image's "
        "format and load address ([A hang](../how-to/hang.md)).",
    ),
    Verdict.BOOT_HANG: (
        "The guest wrote to its console and did not get ready, or it flooded its console. An "
        "early console that nobody took over from is told apart.",
        "The message says how far the boot came ([A hang](../how-to/hang.md)).",
    ),
    Verdict.PANIC: (
        "The guest's kernel panicked. The oops that led to it is shown as well.",
        "Read the text of the panic. Where the kernel did not find its root, look at the line of "
        "`preinit` above it ([A root file system](../how-to/root-file-system.md)).",
    ),
    Verdict.SPLAT: (
        "The kernel found something wrong and went on: WARN, BUG, oops, KASAN, lockdep, lockups, "
        "RCU stalls, hung tasks and [others](splats.md).",
        "Read the trace. If the test provokes it, allow it and say why: `vm.allow_splats(PATTERN, "
        "reason=…)`.",
    ),
    Verdict.HANG: (
        "The guest was ready and does not answer: its CPU works or sleeps, or a signal or QMP "
        "stopped it. Also a guest that flooded its console: what came behind the limit "
        "(ini option `kernelvm_console_limit`) is lost, so nobody can say that nothing was wrong.",
        "The message says where the CPU is. `pytest --kernelvm-keep=failed` and `kernelvm attach` "
        "give the guest as it stands ([A hang](../how-to/hang.md)).",
    ),
    Verdict.GUEST_DIED: (
        "The guest switched itself off or restarted, its agent is gone, or QEMU was killed.",
        "The message has QEMU's status or signal. A test that switches its guest off says so with "
        "`vm.power_off()` or `vm.reboot()`.",
    ),
    Verdict.HARNESS_ERROR: (
        "Something of pytest-kernelvm went wrong, or the disk is full or damaged. It says nothing "
        "about the kernel.",
        "A damaged entry of the store is named with the command that removes it "
        "([The store](store.md)). Else please report it, with the whole message.",
    ),
}


def page() -> str:
    """Return the page in Markdown."""
    return "\n".join([INTRODUCTION, *(line for each in Verdict for line in _section(each))])


def _section(verdict: Verdict) -> Iterator[str]:
    meaning, next_step = MEANING[verdict]
    yield f"## `{verdict}`"
    yield ""
    yield meaning
    yield ""
    yield f"**What to do:** {next_step}"
    yield ""
    exceptions = [f"`{name}`: {_first_line(cls)}" for name, cls in _exceptions(verdict)]
    yield from (f"- {line}" for line in (f"Exit code {verdict.exit_code}.", *exceptions))
    yield ""


def _exceptions(verdict: Verdict) -> list[tuple[str, type[KernelvmError]]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return [
        (name, cls)
        for name, cls in found
        if issubclass(cls, KernelvmError) and cls is not KernelvmError and cls.verdict is verdict
    ]


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]
