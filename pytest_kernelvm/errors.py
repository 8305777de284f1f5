"""Verdicts, and every exception with the evidence that it carries."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from pytest_kernelvm.printable import printable, printable_excerpt, printable_line


class Verdict(enum.Enum):
    """What became of a cell or a test: its name and the exit code of the `kernelvm` command."""

    PASSED = ("passed", 0)
    TEST_FAILED = ("test-failed", 1)
    BAD_INPUT = ("bad-input", 2)
    TOOL_MISSING = ("tool-missing", 3)
    CONFIG_LOST = ("config-lost", 10)
    BUILD_FAILED = ("build-failed", 11)
    LAUNCH_FAILED = ("launch-failed", 12)
    NO_OUTPUT = ("no-output", 13)
    BOOT_HANG = ("boot-hang", 14)
    PANIC = ("panic", 15)
    SPLAT = ("splat", 16)
    HANG = ("hang", 17)
    GUEST_DIED = ("guest-died", 18)
    HARNESS_ERROR = ("harness-error", 70)

    def __init__(self, label: str, exit_code: int) -> None:
        self.label = label
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a person needs to understand a failure without running it again.

    Attributes:
        expected: What should have been, in one sentence.
        seen: What was instead, in one sentence.
        facts: Further lines, such as `reached: memory`.
        where: `file:line` in a file of the user's, or paths of logs.
        next_step: What to do about it.
        excerpt: The lines that show it: of a console, a compiler, a program's error output.
        command: The command that was run, ready to paste.
    """

    expected: str = ""
    seen: str = ""
    facts: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    next_step: str = ""
    excerpt: str = ""
    command: str = ""

    def lines(self) -> list[str]:
        """Return the evidence as lines for a terminal; what is empty is left out.

        No line can command the terminal, whatever a guest or a compiler printed.
        """
        out: list[str] = []
        for label, text in (("expected", self.expected), ("seen", self.seen)):
            if text:
                out.append(f"  {label}: {_indented(text)}")
        out.extend(f"  {_indented(fact)}" for fact in self.facts)
        out.extend(f"  where: {_indented(place)}" for place in self.where)
        if self.excerpt:
            out.extend(f"  | {line}" for line in printable_excerpt(self.excerpt.rstrip("\n")))
        if self.command:
            out.append(f"  command: {printable(self.command)}")
        if self.next_step:
            out.append(f"  next: {_indented(self.next_step)}")
        return out


def _indented(text: str) -> str:
    """Return a text whose further lines cannot be taken for other evidence."""
    return "\n    ".join(printable_excerpt(text))


class KernelvmWarning(UserWarning):
    """A warning of ours in a test run, so that a project's `filterwarnings` can name it."""


class KernelvmError(Exception):
    """Base of all our errors; `verdict` says which kind of failure it is.

    Attributes:
        verdict: The kind of failure, and with it the exit code.
        summary: One line that says what is wrong, fit to be shown on a terminal.
        evidence: What was expected, what was seen, where, and what to do next.
    """

    verdict: ClassVar[Verdict] = Verdict.HARNESS_ERROR

    def __init__(self, summary: str, evidence: Evidence | None = None) -> None:
        self.summary = printable_line(summary)
        super().__init__(self.summary)
        self.evidence = evidence or Evidence()

    def __str__(self) -> str:
        return "\n".join([f"{self.verdict}: {self.summary}", *self.evidence.lines()])

    def __reduce__(self) -> tuple[type[KernelvmError], tuple[str, Evidence]]:
        return type(self), (self.summary, self.evidence)


class HarnessError(KernelvmError):
    """Something in this package went wrong; it is never the guest's fault."""


class BadInput(KernelvmError):
    """A vm-config, an option, a module name or a file given by the user is wrong."""

    verdict = Verdict.BAD_INPUT


class ToolMissing(KernelvmError):
    """A program or a package that the work needs is not installed."""

    verdict = Verdict.TOOL_MISSING


class ConfigLost(KernelvmError):
    """Symbols that were asked for are not in the final .config."""

    verdict = Verdict.CONFIG_LOST


class BuildFailed(KernelvmError):
    """The compiler, make or patch refused."""

    verdict = Verdict.BUILD_FAILED


class LaunchFailed(KernelvmError):
    """QEMU itself did not start."""

    verdict = Verdict.LAUNCH_FAILED


class NoOutput(KernelvmError):
    """The guest never wrote a byte to its console."""

    verdict = Verdict.NO_OUTPUT


class BootHang(KernelvmError):
    """The guest wrote to its console, but its agent did not answer in time."""

    verdict = Verdict.BOOT_HANG


class GuestPanic(KernelvmError):
    """The guest's kernel panicked."""

    verdict = Verdict.PANIC


class GuestSplat(KernelvmError):
    """The guest's kernel found something wrong with itself, and the test does not allow that."""

    verdict = Verdict.SPLAT


class GuestHang(KernelvmError):
    """The guest was ready once and did not answer within a command's timeout."""

    verdict = Verdict.HANG


class GuestDied(KernelvmError):
    """The agent is gone, or QEMU exited, in the middle of the work."""

    verdict = Verdict.GUEST_DIED


class CommandFailed(KernelvmError, AssertionError):
    """A command in the guest ended otherwise than the test demands."""

    verdict = Verdict.TEST_FAILED


class NotLeftClean(KernelvmError, AssertionError):
    """A test left something behind in a guest that the next test was to use."""

    verdict = Verdict.TEST_FAILED


class SyscallFailed(KernelvmError, OSError):
    """A system call in the guest failed.

    The text names the call and its path, as OSError does.

    Attributes:
        errno: The error's number on the host.
        strerror: The error in words.
    """

    verdict = Verdict.TEST_FAILED

    def __init__(self, summary: str, evidence: Evidence | None = None, errno: int = 0) -> None:
        super().__init__(summary, evidence)
        self.errno = errno

    def __reduce__(self) -> tuple[type[KernelvmError], tuple[str, Evidence, int]]:  # type: ignore[override]
        return type(self), (self.summary, self.evidence, self.errno or 0)
