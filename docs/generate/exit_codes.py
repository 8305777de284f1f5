"""The page of the exit codes of `kernelvm`."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kernelvm.cli.main import INTERRUPTED
from pytest_kernelvm.errors import Verdict

INTRODUCTION = """\
# Exit codes

`kernelvm` ends with the code of its verdict. Scripts may rely on these numbers. pytest has exit
codes of its own: 1 if a test failed, whatever its verdict. This page is generated: `make reference`
writes it from `pytest_kernelvm/errors.py`.
"""


def page() -> str:
    """Return the page in Markdown."""
    return "\n".join([INTRODUCTION, *_table()]) + "\n"


def _table() -> Iterator[str]:
    yield "| code | verdict |"
    yield "|---|---|"
    for verdict in Verdict:
        yield f"| {verdict.exit_code} | [`{verdict}`](verdicts.md#{verdict}) |"
    yield f"| {INTERRUPTED} | interrupted by Ctrl-C or SIGTERM |"
