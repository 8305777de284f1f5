"""The verb `services`: services, their parameters and modules."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import one_cell
from pytest_kernelvm.config.services import Parameter, Service, shipped_services

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs


def add_services(verbs: Verbs) -> None:
    """Declare `services`."""
    text = "list services, their parameters and modules"
    verb = verbs.add_parser("services", help=text, description=text)
    verb.add_argument("names", nargs="*", metavar="SERVICE", help="only these; default all")
    verb.add_argument(
        "--config",
        metavar="CELL",
        help="those of this cell; default those that come with the package",
    )
    verb.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        dest="form",
        help="default %(default)s",
    )
    verb.set_defaults(verb=_services)


def _services(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.errors import BadInput, Evidence

    services = (
        one_cell(arguments, arguments.config).services if arguments.config else shipped_services()
    )
    known = {service.name: service for service in services}
    for name in arguments.names:
        if name not in known:
            raise BadInput(f"no service {name}", Evidence(expected=f"one of {', '.join(known)}"))
    chosen = [known[name] for name in arguments.names or known]
    if arguments.form == "json":
        print(json.dumps([dataclasses.asdict(service) for service in chosen], indent=2))
    else:
        print("\n".join(line for service in chosen for line in _lines(service)))
    return 0


def _lines(service: Service) -> Iterator[str]:
    yield f"{service.name}: {service.doc}".rstrip(" :")
    yield f"  modules: {' '.join(service.modules)}"
    for parameter in service.parameters:
        yield f"  {parameter.name} ({_values(parameter)}): {parameter.doc}"
        if parameter.sets:
            yield f"    sets {parameter.sets}"
    for each in service.when:
        conditions = [
            *(f"the kernel has {name}={value}" for name, value in each.symbols),
            *(f"{name} is {value}" for name, value in each.parameters),
        ]
        added = [*each.modules, *(f"{module}: {text}" for module, text in each.options)]
        yield f"  where {' and '.join(conditions)}: {' '.join(added)}"
    if Path(service.where).name != "services.yaml":
        yield f"  from {service.where}"


def _values(parameter: Parameter) -> str:
    values = parameter.kind
    if parameter.allowed:
        values = " | ".join(parameter.allowed)
    elif parameter.least is not None or parameter.most is not None:
        least = "" if parameter.least is None else parameter.least
        most = "" if parameter.most is None else parameter.most
        values = f"{values} {least}…{most}"
    return f"{values}, default {parameter.default or 'as the module has it'}"
