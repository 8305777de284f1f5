"""The verb `doctor`: what this machine has and lacks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import cells_of
from pytest_kernelvm.errors import Verdict

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs


def add_doctor(verbs: Verbs) -> None:
    """Declare `doctor`."""
    text = "say what this machine has and lacks"
    verb = verbs.add_parser("doctor", help=text, description=text)
    verb.add_argument(
        "--packages",
        choices=("apt", "dnf", "pacman", "nix", "brew"),
        help="print only the missing packages of this system, on one line",
    )
    verb.add_argument(
        "--all-systems", action="store_true", help="print the install command of every system"
    )
    verb.set_defaults(verb=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.doctor.examination import examine
    from pytest_kernelvm.doctor.report import rendered
    from pytest_kernelvm.doctor.systems import missing_packages

    findings = examine(cells_of(arguments))
    if arguments.packages:
        missing = missing_packages(findings, arguments.packages)
        if missing:
            print(" ".join(missing))
        return 0
    print(rendered(findings, all_systems=arguments.all_systems))
    lacking = any(finding.required and not finding.satisfied for finding in findings)
    return Verdict.TOOL_MISSING.exit_code if lacking else 0
