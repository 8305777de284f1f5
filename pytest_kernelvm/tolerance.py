"""What a test has to answer for: the splats that it left in its guests' logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.vm.vm import Vm
from pytest_kernelvm.vm.watch import Allowance, allowance

# What becomes of a test that leaves a splat.
SPLATS = ("fail", "warn", "off")


def allowed_by(*args: Any, **given: Any) -> Allowance:
    """Return what a marker's arguments allow. Raises TypeError for what they cannot be."""
    if args:
        raise TypeError("allow and reason have names")
    unknown = given.keys() - {"allow", "reason"}
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
    return allowance(given.get("allow", ()), given.get("reason", ""))


@dataclass(kw_only=True, slots=True)
class Tolerance:
    """How splats count in one test.

    mode: one of SPLATS. markers: the arguments of its markers `kernelvm_splats`.
    charged: directories of the snapshots whose boot some test of the run has answered for.
    guests: those that the test was given.
    """

    mode: str
    markers: tuple[dict[str, Any], ...]
    charged: set[Path]
    guests: list[Vm] = field(default_factory=list)

    def watch_over(self, vm: Vm) -> None:
        """Have a guest that was just given to the test answer for what its kernel finds wrong.

        The boot behind a snapshot counts for the first test that is given a guest of it.
        Raises GuestSplat if there was something at once.
        """
        if self.mode == "off":
            return
        self.guests.append(vm)
        allowances = [allowed_by(**marker) for marker in self.markers]
        boot = not vm.snapshot or vm.snapshot.directory not in self.charged
        if vm.snapshot:
            self.charged.add(vm.snapshot.directory)
        vm.answer_for(allowances, boot=boot, refuse=self.mode == "fail")
        if self.mode == "fail" and vm.splats and (error := vm.splat_error("a boot", ask=False)):
            raise error

    def errors(self, for_what: str, *, ask: bool) -> list[KernelvmError]:
        """Return what is wrong with the guests of the test and was not told yet.

        ask: whether guests are asked for what their consoles do not show.
        """
        found = (vm.splat_error(for_what, ask=ask) for vm in self.guests)
        return [error for error in found if error]
