"""The verb `config`: explain, compare and edit the configuration of a kernel."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_kernelvm.cli.selection import cells_of, one_cell, store_of
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.config.versions import is_version
from pytest_kernelvm.errors import BadInput, Evidence

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.kernel.kconfig.descriptions import SymbolDescriptions
    from pytest_kernelvm.kernel.kconfig.diff import ComparedConfig
    from pytest_kernelvm.kernel.kconfig.session import FinalConfig, KconfigSession

_MOST_ENTRIES = 10


def add_config(verbs: Verbs) -> None:
    """Declare `config explain`, `config diff` and `config edit`."""
    help_text = "explain, compare or edit the configuration of a kernel"
    verb = verbs.add_parser("config", help=help_text, description=help_text)
    actions = verb.add_subparsers(title="what to do", required=True, metavar="explain|diff|edit")

    help_text = "say what a symbol is in a cell, why, and what it would take to change it"
    explain = actions.add_parser("explain", help=help_text, description=help_text)
    explain.add_argument("cell", metavar="CELL", help="such as malta-6.12")
    explain.add_argument(
        "symbol",
        metavar="SYMBOL[=VALUE]",
        help="the symbol, with or without CONFIG_; a value asks what it takes to get it",
    )
    explain.set_defaults(verb=_explain)

    help_text = "show what differs between two configurations"
    diff = actions.add_parser("diff", help=help_text, description=help_text)
    for which in ("one", "other"):
        diff.add_argument(
            which,
            metavar="CELL|FILE|VERSION",
            help="a cell, a .config file, or a version of a vm-config",
        )
    diff.add_argument(
        "--config", metavar="NAME", help="the vm-config that a VERSION is for, if there are several"
    )
    diff.set_defaults(verb=_diff)

    help_text = (
        "change a cell's configuration with nconfig, then print the fragment that does the same"
    )
    edit = actions.add_parser("edit", help=help_text, description=help_text)
    edit.add_argument("cell", metavar="CELL", help="such as malta-6.12")
    edit.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the fragment there instead of printing it",
    )
    edit.set_defaults(verb=_edit)


# explain


def _explain(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build.configure import open_kconfig_session
    from pytest_kernelvm.kernel.kconfig.descriptions import SymbolDescriptions

    cell = one_cell(arguments, arguments.cell)
    name, _, value = arguments.symbol.removeprefix("CONFIG_").partition("=")
    with open_kconfig_session(store_of(arguments), cell) as configuration:
        decision = configuration.configure()
        menus = configuration.menus(decision.values)
        symbol = menus.symbol(name)
        if symbol is None:
            raise _unknown(configuration, decision, name)
        lines = _described(cell, decision, symbol, SymbolDescriptions(menus, decision.requests))
        lines += _to_change(configuration, decision, symbol, value)
    print("\n".join(lines))
    return 0


def _unknown(configuration: KconfigSession, decision: FinalConfig, name: str) -> BadInput:
    """Return the error for a symbol that the cell's Kconfig files lack: where it is, or was."""
    from pytest_kernelvm.kernel.kconfig.losses import explain_losses

    request = Requested(name=name, value="y", where="")
    menus = configuration.menus(decision.values)
    (loss,) = explain_losses([request], menus, decision.requests, configuration.tree)
    return BadInput(
        f"{configuration.label} has no symbol {name}",
        Evidence(seen=f"{loss.reason.value}: {loss.lines[0]}"),
    )


def _described(
    config: CellConfig, decision: FinalConfig, symbol: Any, descriptions: SymbolDescriptions
) -> list[str]:
    from pytest_kernelvm.kernel.kconfig.menus import TYPES, prompts

    menus = descriptions.menus
    text = decision.values.get(symbol.name, "n")
    lines = [f"{symbol.name} is {text} in {config.id}"]
    kind = TYPES.get(symbol.orig_type, "untyped")
    for node in symbol.nodes:
        prompt = f' "{node.prompt[0]}"' if node.prompt else ", without a prompt"
        lines.append(f"  {kind}{prompt}, {node.filename}:{node.linenr}")
    request = decision.requests.get(symbol.name)
    if request:
        lines.append(f"  asked for as {request.value}, {request.where}")
    if symbol.choice is not None:
        members = ", ".join(descriptions.shown(other) for other in symbol.choice.syms)
        lines.append(f"  of the choice at {menus.places(symbol.choice)[0]}: {members}")
    if prompts(symbol):
        lines += _part("where it may be set", descriptions.conditions(symbol))
    selectors = sorted(
        menus.selectors(symbol), key=lambda each: -min(map(menus.level, (each[0], each[1])))
    )
    lines += _part(
        "selected by",
        [
            f"{descriptions.shown(other)}, {place}{'' if menus.level(condition) else ', not now'}"
            for other, condition, place in selectors
        ],
    )
    lines += _part("selects", [descriptions.shown(chosen) for chosen, _ in symbol.selects])
    return lines


def _part(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    rest = [f"    and {len(entries) - _MOST_ENTRIES} more"] if len(entries) > _MOST_ENTRIES else []
    return [f"  {title}:", *(f"    {entry}" for entry in entries[:_MOST_ENTRIES]), *rest]


def _to_change(
    configuration: KconfigSession, decision: FinalConfig, symbol: Any, value: str
) -> list[str]:
    """Return what becomes of the symbol if it is asked for, as olddefconfig says."""
    from kconfiglib import BOOL, TRISTATE

    from pytest_kernelvm.kernel.kconfig.dot_config import same_value

    now = decision.values.get(symbol.name, "n")
    wanted = value or {BOOL: "y", TRISTATE: "m"}.get(symbol.orig_type, "")
    if not wanted or same_value(wanted, now) or (not value and now == "y"):
        return []
    request = Requested(name=symbol.name, value=wanted, where="command line")
    requests = {**decision.requests, symbol.name: request}
    values = {name: each.value for name, each in requests.items()}
    tried = dataclasses.replace(decision, requests=requests, text=configuration.resolve(values))
    if not tried.lost:
        return [f"  tried: olddefconfig keeps {request} if it is asked for"]
    error = configuration.explain(tried)
    return [
        f"  asked for as {wanted}:",
        *(f"    {line}" for line in error.evidence.excerpt.split("\n")),
    ]


# diff


def _diff(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.kconfig.diff import diff_configs, diff_text

    one = _side(arguments, arguments.one, arguments.other)
    other = _side(arguments, arguments.other, arguments.one)
    print(diff_text(diff_configs(one, other), one, other))
    return 0


def _side(arguments: argparse.Namespace, name: str, other: str) -> ComparedConfig:
    from pytest_kernelvm.kernel.build.configure import open_kconfig_session
    from pytest_kernelvm.kernel.kconfig.diff import ComparedConfig
    from pytest_kernelvm.kernel.kconfig.losses import definitions

    path = Path(name)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        try:
            return ComparedConfig(label=name, text=path.read_text(), names=None, requests={})
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read {name}: {error}") from None
    if is_version(name):
        cell = _cell_of_version(arguments, name, other)
    else:
        cell = one_cell(arguments, name)
    with open_kconfig_session(store_of(arguments), cell) as configuration:
        decision = configuration.configure()
        return ComparedConfig(
            label=cell.id,
            text=decision.text,
            names=frozenset(definitions(configuration.tree)),
            requests=decision.requests,
        )


def _cell_of_version(arguments: argparse.Namespace, version: str, other: str) -> CellConfig:
    """Return the cell of a version.

    Its vm-config is the one of --config, or that of the other side, or the only one that there is.

    Raises:
        BadInput: Several vm-configs are possible.
    """
    known = cells_of(arguments)
    of_the_other = [cell for cell in known if other in (cell.id, cell.name)]
    named = cells_of(arguments, [arguments.config]) if arguments.config else of_the_other or known
    files = sorted({cell.file for cell in named})
    if len(files) != 1:
        raise BadInput(
            f"{version} of which vm-config?",
            Evidence(expected=f"--config with one of {', '.join(file.stem for file in files)}"),
        )
    (cell,) = read_config(files[0], version=version)
    return cell


# edit


def _edit(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build.configure import open_kconfig_session
    from pytest_kernelvm.kernel.kconfig.dot_config import as_config
    from pytest_kernelvm.kernel.kconfig.edit import smallest_fragment

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInput(
            "config edit needs a terminal",
            Evidence(next_step="`kernelvm config explain` says what to write into a fragment"),
        )
    store = store_of(arguments)
    with open_kconfig_session(store, one_cell(arguments, arguments.cell)) as configuration:
        decision = configuration.configure()
        after = configuration.edit()
        store.progress.say("looking for the smallest fragment that does the same")
        asked = {name: each.value for name, each in decision.requests.items()}
        fragment = smallest_fragment(
            decision.text, after, lambda values: configuration.resolve({**asked, **values})
        )
    if not fragment:
        print("nothing has changed")
        return 0
    _write_fragment(arguments.output, as_config(fragment))
    for name in fragment:
        if name in decision.requests:
            request = decision.requests[name]
            print(f"kernelvm: {request} is asked for, {request.where}: change it there")
    return 0


def _write_fragment(output: Path | None, text: str) -> None:
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        print(text, end="")
        raise BadInput(f"cannot write {output}: {error}") from None
    print(f"kernelvm: the fragment is in {output}")
