"""When a test fails for the splats in its guests' logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.plugin.expected_errors import is_caught_by_name, is_reported, where_caught
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.verdict.allowance import Allowance, allowance


def allowed_by(*args: Any, **given: Any) -> Allowance:
    """Return what the arguments of a marker `kernelvm_splats` allow.

    Args:
        *args: Positional arguments, which the marker does not take.
        **given: `allow`, a regular expression or several, and `reason`, a text.

    Returns:
        The splats that are allowed, and why.

    Raises:
        TypeError: An argument is unknown, missing or wrong.
    """
    if args:
        raise TypeError("allow and reason have names")
    unknown = given.keys() - {"allow", "reason"}
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
    return allowance(given.get("allow", ()), given.get("reason", ""))


@dataclass(kw_only=True, slots=True)
class SplatPolicy:
    """How splats count in one test.

    Attributes:
        test: The test's id.
        mode: What a splat does to the test: `fail`, `warn` or `off`.
        markers: The arguments of the test's markers `kernelvm_splats`.
        charged: For each snapshot's directory, the test of the run that fails for splats of the
            boot behind it. If that test runs again, they count again.
        launched: All guests of the test.
        guests: Those of them that got ready.
    """

    test: str
    mode: str
    markers: tuple[dict[str, Any], ...]
    charged: dict[Path, str]
    launched: list[Vm] = field(default_factory=list)
    guests: list[Vm] = field(default_factory=list)

    def watch_over(self, vm: Vm) -> None:
        """Have splats of a guest count from now on; the test has just got it.

        The boot behind a snapshot counts for the first test that gets a guest of it, each time that
        this test runs. A test that allows some splats does not fail for others of that boot.
        A splat that is there already raises GuestSplat.

        Args:
            vm: The guest, ready.
        """
        if self.mode == "off":
            return
        self.guests.append(vm)
        allowances = [allowed_by(**marker) for marker in self.markers]
        boot = not vm.snapshot or self._answers_for(vm.snapshot.directory)
        vm.control.answer_for(allowances, boot=boot, refuse=self.mode == "fail")
        if self.mode == "fail" and vm.splats:
            error = vm.control.conclude("a boot", ask=False)
            if error:
                raise error

    def _answers_for(self, snapshot: Path) -> bool:
        """Whether the boot behind a snapshot counts for this test; if so, it is noted."""
        reported_by = self.charged.get(snapshot)
        if reported_by is None and not self.markers:
            self.charged[snapshot] = self.test
        return reported_by in (None, self.test)

    def errors(self, for_what: str, *, ask: bool, is_over: bool) -> list[KernelvmError]:
        """Return what is wrong with the guests of the test and was not reported yet.

        Args:
            for_what: What the guests have just done, for the messages.
            ask: Whether guests are asked for their logs, their taint and an answer.
            is_over: Whether the test ended without an error. Then each error that it caught must be
                one that it expected.

        Returns:
            The errors; the first one fails the test.
        """
        found = [_unexpected(error) for error in self._unreported()] if is_over else []
        found += [vm.control.conclude(for_what, ask=ask) for vm in self.guests]
        return [error for error in found if error]

    def _unreported(self) -> Iterator[KernelvmError]:
        """Give, once each, the errors that were raised and that the test has not failed for."""
        for vm in self.launched if self.mode == "fail" else ():
            yield from vm.control.take_raised()


def _unexpected(error: KernelvmError) -> KernelvmError | None:
    """Return the error for a verdict that a test caught; None if its handler names the verdict."""
    if is_caught_by_name(error) or is_reported(error):
        return None
    place = f"caught at {where_caught(error)} by a handler that does not name the verdict"
    name = type(error).__name__
    step = f"if the test expects it, say so: pytest.raises({name}) or except {name}"
    evidence = replace(
        error.evidence,
        facts=(*error.evidence.facts, place),
        next_step="; ".join(part for part in (step, error.evidence.next_step) if part),
    )
    return type(error)(error.summary, evidence)
