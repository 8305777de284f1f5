"""What a test has to answer for: the splats that it left in its guests' logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.plugin.expected_errors import is_caught_by_name, is_reported, where_caught
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.verdict.watch import Allowance, allowance


def allowed_by(*args: Any, **given: Any) -> Allowance:
    """Return what a marker's arguments allow. Raises TypeError for what they cannot be."""
    if args:
        raise TypeError("allow and reason have names")
    unknown = given.keys() - {"allow", "reason"}
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
    return allowance(given.get("allow", ()), given.get("reason", ""))


@dataclass(kw_only=True, slots=True)
class SplatPolicy:
    """How splats count in one test.

    test: its id. mode: what becomes of one that leaves a splat: `fail`, `warn` or `off`.
    markers: the arguments of its markers `kernelvm_splats`.
    charged: by the directories of snapshots, the test of the run that answers for their boot; in
    one that is run again it counts again.
    launched: all guests of the test. guests: those of them that got ready.
    """

    test: str
    mode: str
    markers: tuple[dict[str, Any], ...]
    charged: dict[Path, str]
    launched: list[Vm] = field(default_factory=list)
    guests: list[Vm] = field(default_factory=list)

    def watch_over(self, vm: Vm) -> None:
        """Have a guest that was just given to the test answer for what its kernel finds wrong.

        The boot behind a snapshot counts for the first test that is given a guest of it, each time
        that it runs; one that allows some splats does not answer for the others.
        Raises GuestSplat if there was something at once.
        """
        if self.mode == "off":
            return
        self.guests.append(vm)
        allowances = [allowed_by(**marker) for marker in self.markers]
        boot = not vm.snapshot or self._answers_for(vm.snapshot.directory)
        vm.answer_for(allowances, boot=boot, refuse=self.mode == "fail")
        if self.mode == "fail" and vm.splats and (error := vm.conclude("a boot", ask=False)):
            raise error

    def _answers_for(self, snapshot: Path) -> bool:
        """Whether the boot behind a snapshot counts for this test, which is then noted."""
        told_by = self.charged.get(snapshot)
        if told_by is None and not self.markers:
            self.charged[snapshot] = self.test
        return told_by in (None, self.test)

    def errors(self, for_what: str, *, ask: bool, is_over: bool) -> list[KernelvmError]:
        """Return what is wrong with the guests of the test and was not told yet.

        ask: whether guests are asked for their logs, their taint and an answer. is_over: whether
        the test ended without an error, so that those that it caught must have been expected.
        """
        found = [_unexpected(error) for error in self._unreported()] if is_over else []
        found += [vm.conclude(for_what, ask=ask) for vm in self.guests]
        return [error for error in found if error]

    def _unreported(self) -> Iterator[KernelvmError]:
        """Give, once, the verdicts that were raised and that the test has not failed for."""
        for vm in self.launched if self.mode == "fail" else ():
            yield from vm.take_raised()


def _unexpected(error: KernelvmError) -> KernelvmError | None:
    """Return an error that a test caught without naming it; None if it did not, or named it."""
    if is_caught_by_name(error) or is_reported(error):
        return None
    place = f"caught at {where_caught(error)} by a handler that does not name the verdict"
    name = type(error).__name__
    step = f"whoever expects it says so: pytest.raises({name}), except {name}"
    evidence = replace(
        error.evidence,
        facts=(*error.evidence.facts, place),
        next_step="; ".join(part for part in (step, error.evidence.next_step) if part),
    )
    return type(error)(error.summary, evidence)
