"""What the doctor found, in words."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kernelvm.doctor.finding import SYSTEMS, Finding, System
from pytest_kernelvm.doctor.systems import detected_system, install_command, notes


def rendered(
    findings: Sequence[Finding], *, system: System | None = None, all_systems: bool = False
) -> str:
    """Return the findings as a table, and below it what to do about what is missing.

    Args:
        findings: What was looked for.
        system: The package system whose command is shown; None for that of this machine.
        all_systems: Show also, for every package system, how to install everything.
    """
    lines = _table(findings)
    system = system or detected_system()
    missing = [f for f in findings if f.required and not f.satisfied]
    lines.append("")
    if missing:
        lines.append(f"required and not here: {', '.join(f.name for f in missing)}")
        for known in (system,) if system else SYSTEMS:
            lines += _advice(findings, known, everything=False)
    else:
        lines.append("everything required is here")
    if all_systems:
        for known in SYSTEMS:
            lines += ["", f"{known}, from nothing:", *_advice(findings, known, everything=True)]
    return "\n".join(lines)


def _advice(findings: Sequence[Finding], system: System, *, everything: bool) -> list[str]:
    command = install_command(findings, system, everything=everything)
    lines = [f"  {command}"] if command else []
    return lines + [f"  note: {note}" for note in notes(findings, system, everything=everything)]


def _table(findings: Sequence[Finding]) -> list[str]:
    every = {cell for f in findings for cell in f.cells}
    rows = [(_mark(f), f.name, _state(f), _about(f, every)) for f in findings]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (1, 2)]
    return [
        f"{mark} {name:<{widths[0]}}  {state:<{widths[1]}}  {about}".rstrip()
        for mark, name, state, about in rows
    ]


def _mark(finding: Finding) -> str:
    if finding.satisfied:
        return "✓"
    return "✗" if finding.required else "·"


def _state(finding: Finding) -> str:
    if finding.path is None:
        return "missing" if finding.required else "missing, optional"
    if finding.outdated:
        return f"{finding.version}, needs {finding.minimum}"
    return finding.version or ""


def _about(finding: Finding, every: set[str]) -> str:
    if finding.satisfied:
        return str(finding.path)
    some = finding.cells and set(finding.cells) != every
    whom = f" (for {', '.join(finding.cells)})" if some else ""
    return f"{finding.reason}{whom}"
