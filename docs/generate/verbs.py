"""The page of the verbs of `kernelvm`, from the parsers that read them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pytest_kernelvm.cli.main import command_parser

INTRODUCTION = """\
# Verbs of `kernelvm`

All that the command `kernelvm` does. `kernelvm VERB --help` shows the same on a terminal. It
ends with the [exit code](exit-codes.md) of its verdict. The [environment](options.md#environment)
may name another store. This page is generated: `make reference` writes it from
`pytest_kernelvm/cli/`.

The options of `kernelvm` itself stand before the verb. A CELL is one kernel on one
machine, such as `malta-6.12`; `kernelvm list` shows them.
"""


def page() -> str:
    """Return the page in Markdown."""
    parser = command_parser()
    lines = [INTRODUCTION, "## Options of `kernelvm` itself", "", *_arguments(parser)]
    for verb, of_verb, told in _verbs(parser):
        lines += _section("##", f"kernelvm {verb}", of_verb, told)
        for action, of_action, told_of_action in _verbs(of_verb):
            lines += _section("###", f"kernelvm {verb} {action}", of_action, told_of_action)
    return "\n".join(lines).rstrip() + "\n"


def _verbs(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Yield the names, parsers and help texts of what comes next on a command line."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {each.dest: each.help or "" for each in action._choices_actions}
            for name, verb in action.choices.items():
                yield name, verb, told[name]


def _section(
    heading: str, command: str, parser: argparse.ArgumentParser, told: str
) -> Iterator[str]:
    text = parser.description or told
    yield ""
    yield f"{heading} `{command}`"
    yield ""
    yield _cell(text[:1].upper() + text[1:]).removesuffix(".") + "."
    yield ""
    yield from _arguments(parser)


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    """Return a table of what a verb takes, nothing if it takes nothing."""
    rows = [
        f"| {_spelled(action)} | {_cell(_help(action, parser.prog))} |"
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
    ]
    return ["| argument | meaning |", "|---|---|", *rows] if rows else []


def _spelled(action: argparse.Action) -> str:
    """Return an argument as it is written, with its value if it takes one."""
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    behind = f" {value}" if value else ""
    is_told = "repeatable" in (action.help or "")
    repeatable = isinstance(action, argparse._AppendAction) and not is_told
    options = ", ".join(f"`{option}{behind}`" for option in action.option_strings)
    return f"{options}, repeatable" if repeatable else options


def _value(action: argparse.Action) -> str:
    """Return what stands for an argument's values; empty if it takes none."""
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    # A table's cell ends at a bar; only some readers of Markdown let one stand in code.
    name = (metavar or choices or action.dest.upper()).replace("|", " or ")
    forms = {"0": "", "?": f"[{name}]", "*": f"[{name}…]", "+": f"{name}…"}
    return forms.get(str(action.nargs), name)


def _help(action: argparse.Action, prog: str) -> str:
    return (action.help or "") % {**vars(action), "prog": prog}


def _cell(text: str) -> str:
    """Return a text that a table's cell may hold: no end of the cell, no link, no tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "&#91;")
