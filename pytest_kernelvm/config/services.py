"""Services: requirements of a router with a name, as services.yaml and vm-configs describe them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.typed_yaml import (
    Complaints,
    ListOf,
    Located,
    MapOf,
    Placed,
    Record,
    Text,
    compose,
)
from pytest_kernelvm.errors import BadInput, Evidence

SHIPPED = Path(__file__).parent / "services.yaml"

KINDS = ("integer", "boolean", "text")

_NAME = r"[a-z][a-z0-9_-]*"
_MODULE = Text(doc="A module's name or alias.", pattern=r"[A-Za-z0-9_.:+-]+", shape="a module")
_BOOLEANS = {"true": "1", "false": "0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """What a user may choose of a service.

    kind: integer, boolean or text. default: as the user would write it, empty for the module's own.
    sets: `module.parameter` that gets the value, empty if only conditions look at it.
    least, most: of an integer. allowed: the only values, if not empty.
    """

    name: str
    doc: str
    kind: str
    default: str = ""
    sets: str = ""
    least: int | None = None
    most: int | None = None
    allowed: tuple[str, ...] = ()

    def fault(self, value: str) -> str:
        """Return what is wrong with a value, empty if nothing is."""
        if self.allowed and value not in self.allowed:
            return f"one of {', '.join(self.allowed)}"
        if self.kind == "boolean" and value not in _BOOLEANS:
            return "true or false"
        if self.kind == "integer":
            return self._fault_of_integer(value)
        return "" if re.fullmatch(r'[^\n\r"]*', value) else "one line without quotes"

    def _fault_of_integer(self, value: str) -> str:
        if not re.fullmatch(r"-?[0-9]+", value):
            return "a whole number"
        least, most = self.least, self.most
        if (least is not None and int(value) < least) or (most is not None and int(value) > most):
            if least is not None and most is not None:
                return f"a number from {least} to {most}"
            return f"at least {least}" if most is None else f"at most {most}"
        return ""

    def as_option(self, value: str) -> str:
        """Return `parameter=value` as a module takes it."""
        text = _BOOLEANS[value] if self.kind == "boolean" else value
        quoted = f'"{text}"' if re.search(r"\s", text) else text
        return f"{self.sets.partition('.')[2]}={quoted}"


@dataclass(frozen=True, kw_only=True, slots=True)
class When:
    """What is added to a service under a condition.

    symbols: Kconfig symbols with the values that the kernel must have, `set` for y or m.
    parameters: the service's own with the values that they must have.
    modules: then wanted too. options: (module, parameters), then given too.
    """

    symbols: tuple[tuple[str, str], ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A requirement with a name.

    modules: always wanted. parameters: what a user may choose. when: see When.
    where: the place of its description.
    """

    name: str
    doc: str
    modules: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    when: tuple[When, ...] = ()
    where: str = ""


_VALUE = Text(doc="A value.", pattern=r"[^\n\r]*", shape="one line")
_PARAMETER = Record(
    doc="A parameter that a user may choose.",
    required=("doc",),
    keys={
        "doc": Text(doc="What it is.", pattern=r"[^\n\r]+", shape="one line"),
        "type": Text(doc="Its type, default text.", allowed=KINDS),
        "default": Placed(text=_VALUE),
        "sets": Text(
            doc="The module's parameter that gets the value.",
            pattern=r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
            shape="module.parameter",
        ),
        "least": Placed(text=Text(doc="The least integer.", pattern=r"-?[0-9]+", shape="integer")),
        "most": Placed(text=Text(doc="The most.", pattern=r"-?[0-9]+", shape="an integer")),
        "allowed": ListOf(doc="The only values.", item=_VALUE),
    },
)
_WHEN = Record(
    doc="What is added where all conditions hold.",
    keys={
        "symbols": MapOf(
            doc="Values that the kernel's configuration must have; `set` for y or m.",
            key=Text(doc="A Kconfig symbol.", pattern=r"[A-Z0-9_]+", shape="a symbol"),
            value=_VALUE,
        ),
        "parameters": MapOf(
            doc="Values that the service's parameters must have.",
            key=Text(doc="A parameter.", pattern=_NAME, shape="a parameter's name"),
            value=_VALUE,
        ),
        "modules": ListOf(doc="Modules that are wanted then.", item=_MODULE),
        "options": MapOf(doc="Module parameters by module.", key=_MODULE, value=_VALUE),
    },
)
SERVICES = MapOf(
    doc="Requirements with a name; one that is shipped may be given other defaults.",
    key=Text(doc="A service's name.", pattern=_NAME, shape="a service's name"),
    value=Record(
        doc="A service, or other defaults for a shipped one.",
        keys={
            "doc": Text(doc="What it is.", pattern=r"[^\n\r]+", shape="one line"),
            "modules": ListOf(doc="Modules that it always wants.", item=_MODULE),
            "parameters": MapOf(
                doc="What a user may choose.",
                key=Text(doc="A parameter.", pattern=_NAME, shape="a parameter's name"),
                value=_PARAMETER,
            ),
            "when": ListOf(doc="What is added under conditions.", item=_WHEN),
            "defaults": MapOf(
                doc="Other defaults for a shipped service's parameters.",
                key=Text(doc="A parameter.", pattern=_NAME, shape="a parameter's name"),
                value=Placed(text=_VALUE),
            ),
        },
    ),
)


@cache
def shipped_services() -> tuple[Service, ...]:
    """Return the services that come with the package."""
    complaints = Complaints(SHIPPED)
    raw = Record(doc="The file.", keys={"services": SERVICES}).read(compose(SHIPPED), complaints)
    complaints.raise_if_any()
    return tuple(_service(name, each, str(SHIPPED)) for name, each in raw["services"].items())


def services_of(raw: Mapping[str, dict[str, Any]], where: str) -> tuple[Service, ...]:
    """Return the shipped services with a vm-config's own and its defaults over them.

    raw: what SERVICES read. where: the vm-config.
    Raises BadInput for what is no service and for values that do not fit.
    """
    services = {service.name: service for service in shipped_services()}
    for name, each in raw.items():
        if each.get("modules"):
            services[name] = _service(name, each, where)
        elif name in services and set(each) <= {"defaults"}:
            services[name] = with_defaults(services[name], each.get("defaults", {}))
        else:
            raise BadInput(
                f"the service {name} has no modules",
                Evidence(
                    expected="`modules`, or `defaults` for one of " + ", ".join(services),
                    where=(where,),
                ),
            )
    return tuple(services.values())


def with_defaults(service: Service, values: Mapping[str, Located]) -> Service:
    """Return a service with other defaults. Raises BadInput for what does not fit."""
    known = {parameter.name: parameter for parameter in service.parameters}
    for name, value in values.items():
        if name not in known:
            raise no_parameter(service, name, str(value.place))
        known[name] = replace(known[name], default=value.text)
        _check_default(service.name, known[name], str(value.place))
    return replace(service, parameters=tuple(known.values()))


def no_parameter(service: Service, name: str, where: str = "") -> BadInput:
    """Return the error for a parameter that a service does not have."""
    known = ", ".join(parameter.name for parameter in service.parameters)
    return BadInput(
        f"the service {service.name} has no parameter {name}",
        Evidence(expected=f"one of {known}" if known else "none", where=(where,) if where else ()),
    )


def _check_default(service: str, parameter: Parameter, where: str) -> None:
    if parameter.default and (fault := parameter.fault(parameter.default)):
        raise BadInput(
            f"{service}: the default of {parameter.name} is {parameter.default!r}",
            Evidence(expected=fault, where=(where,)),
        )


def _service(name: str, raw: dict[str, Any], where: str) -> Service:
    service = Service(
        name=name,
        doc=raw.get("doc", ""),
        modules=raw.get("modules", ()),
        parameters=tuple(
            _parameter(name, key, each, where) for key, each in raw.get("parameters", {}).items()
        ),
        when=tuple(
            When(
                symbols=tuple(each.get("symbols", {}).items()),
                parameters=tuple(each.get("parameters", {}).items()),
                modules=each.get("modules", ()),
                options=tuple(each.get("options", {}).items()),
            )
            for each in raw.get("when", ())
        ),
        where=where,
    )
    known = {parameter.name for parameter in service.parameters}
    for condition in service.when:
        for parameter, _ in condition.parameters:
            if parameter not in known:
                raise no_parameter(service, parameter, where)
    return with_defaults(service, raw.get("defaults", {}))


def _parameter(service: str, name: str, raw: dict[str, Any], where: str) -> Parameter:
    default = raw.get("default")
    parameter = Parameter(
        name=name,
        doc=raw["doc"],
        kind=raw.get("type", "text"),
        default=default.text if default else "",
        sets=raw.get("sets", ""),
        least=int(raw["least"].text) if "least" in raw else None,
        most=int(raw["most"].text) if "most" in raw else None,
        allowed=raw.get("allowed", ()),
    )
    _check_default(service, parameter, str(default.place) if default else where)
    return parameter
