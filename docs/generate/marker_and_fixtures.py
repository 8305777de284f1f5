"""The page of the markers and fixtures, from the guest request and the fixtures' docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

from pytest_kernelvm.plugin import fixtures
from pytest_kernelvm.plugin.markers import FEATURES_MARKER, SPLATS_MARKER, VM_MARKER
from pytest_kernelvm.plugin.short_fixtures import NAMES
from pytest_kernelvm.session.guest_request import ARGUMENTS, default_of, signature

HEAD = """\
# Marker and fixtures

What a test asks of its guest, and the fixtures that give it guests. How they are used:
[What a test can do with a guest](guest.md). This page is generated: `make reference` writes it from
`pytest_kernelvm/session/guest_request.py` and the docstrings in
`pytest_kernelvm/plugin/fixtures.py`.

## The marker `kernelvm`

It says what the guest of a test is, as in `@pytest.mark.kernelvm(modules=["nft_ct"])`. Markers of a
class or module count for all of their tests; the nearest one takes precedence. A marker with a
wrong argument is an error of its test, before anything is built.
"""
CALLS = """\
Calls of `boot_vm`, `new_vm` and `vms` take most of these arguments, which override those of the
marker. So does `cell.bootable`, which ignores the marker. The columns "marker" and "call" say where
an argument may be given; in any other place it is a `TypeError`. The last column has the option of
`kernelvm boot` and `kernelvm argv` that asks for the same.
"""
OTHER_MARKERS = """\
## Other markers
"""
FIXTURES = """\
## Fixtures

A test that uses a fixture with a short name runs once for each cell. The ini option
`kernelvm_short_fixtures = false` switches the short names off.
"""

_SECTION = re.compile(r"^(Returns|Yields|Raises):\n", re.MULTILINE)


def page() -> str:
    """Return the page in Markdown."""
    lines = [HEAD, "```", *_signature(), "```", "", CALLS]
    lines += [
        "| argument | default | meaning | marker | call | option |",
        "|---|---|---|---|---|---|",
    ]
    lines += _arguments()
    lines += ["", OTHER_MARKERS]
    for marker in (SPLATS_MARKER, FEATURES_MARKER, VM_MARKER):
        name, _, meaning = marker.partition(": ")
        lines.append(f"- `{name}`: {meaning}.")
    lines += ["", FIXTURES, *_fixtures()]
    return "\n".join(lines).rstrip() + "\n"


def _signature() -> Iterator[str]:
    yield "kernelvm("
    yield from (f"    {argument}," for argument in signature().split(", "))
    yield ")"


def _arguments() -> Iterator[str]:
    for name, argument in ARGUMENTS.items():
        option = argument.option
        flag = f"`{option.flag}`" if option else ""
        cells = (
            f"`{name}`",
            f"`{default_of(name)!r}`",
            argument.meaning,
            "yes" if argument.by_marker else "",
            "yes" if argument.by_call else "",
            flag,
        )
        yield "| " + " | ".join(cells) + " |"


def _fixtures() -> Iterator[str]:
    """Give a section for each public fixture, from the source of the module that defines them."""
    for node in ast.parse(inspect.getsource(fixtures)).body:
        if not isinstance(node, ast.FunctionDef) or not _is_public_fixture(node):
            continue
        short = node.name.removeprefix("kernelvm_")
        names = [short, node.name] if short in NAMES else [node.name]
        yield f"### {', '.join(f'`{name}`' for name in names)}"
        yield ""
        yield _markdown(ast.get_docstring(node) or "")
        yield ""
        yield f"Scope: {_scope(node)}."
        yield ""


def _markdown(docstring: str) -> str:
    """Return a docstring in Google style as paragraphs."""
    text, *sections = _SECTION.split(docstring)
    paragraphs = [text.strip()]
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        words = textwrap.dedent(body).strip()
        paragraphs.append(
            f"Raises {words}" if name == "Raises" else f"It is {words[0].lower()}{words[1:]}"
        )
    return "\n\n".join(paragraphs)


def _is_public_fixture(node: ast.FunctionDef) -> bool:
    written = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(each.startswith("pytest.fixture") and "name=" not in each for each in written)


def _scope(node: ast.FunctionDef) -> str:
    written = [ast.unparse(decorator) for decorator in node.decorator_list]
    return "session" if any("scope='session'" in each for each in written) else "function"
