"""Services: requirements of a router with a name, as services.yaml and vm-configs describe them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from pytest_kernelvm.config.typed_yaml.expected import (
    Context,
    Expected,
    ListOf,
    MapOf,
    PlacedText,
    Text,
    placed,
)
from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes
from pytest_kernelvm.config.typed_yaml.nodes import compose
from pytest_kernelvm.config.typed_yaml.rows import Record, Written, given, key, yaml_mapping
from pytest_kernelvm.errors import BadInput, Evidence

SHIPPED = Path(__file__).parent / "services.yaml"

T = TypeVar("T")

KINDS = ("integer", "boolean", "text")

_NAME = r"[a-z][a-z0-9_-]*"
_MODULE = Text(doc="A module's name or alias.", pattern=r"[A-Za-z0-9_.:+-]+", shape="a module")
_BOOLEANS = {"true": "1", "false": "0"}


_VALUE = r"[^\n\r]*"


def _line(doc: str) -> Text:
    return Text(doc=doc, pattern=_VALUE, shape="one line")


def _integer(doc: str) -> Text:
    return Text(doc=doc, pattern=r"-?[0-9]+", shape="an integer")


def _by_name(doc: str, name: str, pattern: str, shape: str, item: Expected[T]) -> MapOf[T]:
    """Return the expectation of a mapping from names of things to like values."""
    key = Text(doc=f"The name of {shape}.", pattern=pattern, shape=shape)
    return MapOf(doc=doc, key=key, placeholder=name, item=item)


def _pairs(found: Mapping[str, T], _context: Context) -> tuple[tuple[str, T], ...]:
    return tuple(found.items())


@yaml_mapping
class Parameter:
    """What a user may choose of a service.

    kind: integer, boolean or text. default: as the user would write it, empty for the module's own.
    sets: `module.parameter` that gets the value, empty if only conditions look at it.
    least, most: of an integer. allowed: the only values, if not empty.
    """

    name: str = given(lambda _written, context: context.name)
    doc: str = key(Text(doc="What it is.", pattern=r"[^\n\r]+", shape="one line"))
    kind: str = key(Text(doc="Its type.", allowed=KINDS), name="type", default="text")
    default: str = key(
        placed("What it is if the user chooses nothing.", pattern=_VALUE, shape="one line"),
        convert=lambda default, _context: default.text,
        default="",
        default_text="the module's own",
    )
    sets: str = key(
        Text(
            doc="The module's parameter that gets the value.",
            pattern=r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
            shape="module.parameter",
        ),
        default="",
    )
    least: int | None = key(
        _integer("The least integer."), convert=lambda text, _context: int(text), default=None
    )
    most: int | None = key(
        _integer("The greatest integer."), convert=lambda text, _context: int(text), default=None
    )
    allowed: tuple[str, ...] = key(
        ListOf(doc="The only values.", item=_line("A value.")), default=()
    )

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


def _check_parameter(parameter: Parameter, written: Written, context: Context) -> None:
    """Raise BadInput for a default that the parameter cannot have."""
    if parameter.default:
        _check_default(context.names[-2], parameter, str(written["default"].place))


def _check_default(service: str, parameter: Parameter, where: str) -> None:
    if parameter.default and (fault := parameter.fault(parameter.default)):
        raise BadInput(
            f"{service}: the default of {parameter.name} is {parameter.default!r}",
            Evidence(expected=fault, where=(where,)),
        )


@yaml_mapping
class When:
    """What is added to a service under a condition.

    symbols: Kconfig symbols with the values that the kernel must have, `set` for y or m.
    parameters: the service's own with the values that they must have.
    modules: then wanted too. options: (module, parameters), then given too.
    """

    symbols: tuple[tuple[str, str], ...] = key(
        _by_name(
            "Values that the kernel's configuration must have; `set` for y or m.",
            "SYMBOL",
            r"[A-Z0-9_]+",
            "a symbol",
            _line("A value."),
        ),
        convert=_pairs,
        default=(),
    )
    parameters: tuple[tuple[str, str], ...] = key(
        _by_name(
            "Values that the service's parameters must have.",
            "PARAMETER",
            _NAME,
            "a parameter's name",
            _line("A value."),
        ),
        convert=_pairs,
        default=(),
    )
    modules: tuple[str, ...] = key(
        ListOf(doc="Modules that are wanted then.", item=_MODULE), default=()
    )
    options: tuple[tuple[str, str], ...] = key(
        _by_name(
            "Module parameters by module.",
            "MODULE",
            _MODULE.pattern,
            _MODULE.shape,
            _line("As after the module's name in an options line."),
        ),
        convert=_pairs,
        default=(),
    )


@yaml_mapping
class Service:
    """A requirement with a name.

    modules: always wanted. parameters: what a user may choose. when: see When.
    where: the place of its description.
    """

    name: str = given(lambda _written, context: context.name)
    doc: str = key(Text(doc="What it is.", pattern=r"[^\n\r]+", shape="one line"), default="")
    modules: tuple[str, ...] = key(
        ListOf(doc="Modules that it always wants.", item=_MODULE), default=()
    )
    parameters: tuple[Parameter, ...] = key(
        _by_name(
            "What a user may choose.",
            "PARAMETER",
            _NAME,
            "a parameter's name",
            Record(
                cls=Parameter,
                doc="A parameter that a user may choose.",
                check=_check_parameter,
            ),
        ),
        convert=lambda found, _context: tuple(found.values()),
        default=(),
    )
    when: tuple[When, ...] = key(
        ListOf(
            doc="What is added under conditions.",
            item=Record(cls=When, doc="What is added where all conditions hold."),
        ),
        default=(),
    )
    where: str = given(lambda _written, context: str(context.file), default="")


@yaml_mapping
class WrittenService(Service):
    """A service, or other defaults for one that is shipped, as a file says it.

    defaults: of its parameters, by name. keys: all that is written.
    """

    keys: frozenset[str] = given(lambda written, _context: frozenset(written))

    defaults: tuple[tuple[str, PlacedText], ...] = key(
        _by_name(
            "Other defaults for a shipped service's parameters.",
            "PARAMETER",
            _NAME,
            "a parameter's name",
            placed("A value.", pattern=_VALUE, shape="one line"),
        ),
        convert=_pairs,
        default=(),
    )

    @property
    def service(self) -> Service:
        """The service with these defaults. Raises BadInput for what does not fit."""
        own = Service(**{each.name: getattr(self, each.name) for each in fields(Service)})
        known = {parameter.name for parameter in own.parameters}
        for condition in own.when:
            for parameter, _ in condition.parameters:
                if parameter not in known:
                    raise no_parameter(own, parameter, own.where)
        return with_defaults(own, dict(self.defaults))


SERVICES = _by_name(
    "Requirements with a name; one that is shipped may be given other defaults.",
    "SERVICE",
    _NAME,
    "a service's name",
    Record(cls=WrittenService, doc="A service, or other defaults for a shipped one."),
)


@yaml_mapping
class _ServicesFile:
    """What services.yaml says."""

    services: Mapping[str, WrittenService] = key(SERVICES)


@cache
def shipped_services() -> tuple[Service, ...]:
    """Return the services that come with the package."""
    mistakes = Mistakes(SHIPPED)
    file = Record(cls=_ServicesFile, doc="The file.")
    written = file.read(compose(SHIPPED), mistakes)
    mistakes.raise_if_any()
    found = file.value(written, Context(file=SHIPPED))
    return tuple(each.service for each in found.services.values())


def with_shipped(written: Mapping[str, WrittenService], context: Context) -> tuple[Service, ...]:
    """Return the shipped services with a vm-config's own and its defaults over them.

    Raises BadInput for what is no service and for values that do not fit.
    """
    services = {service.name: service for service in shipped_services()}
    for name, each in written.items():
        if each.modules:
            services[name] = each.service
        elif name in services and each.keys <= {"defaults"}:
            services[name] = with_defaults(services[name], dict(each.defaults))
        else:
            raise BadInput(
                f"the service {name} has no modules",
                Evidence(
                    expected="`modules`, or `defaults` for one of " + ", ".join(services),
                    where=(str(context.file),),
                ),
            )
    return tuple(services.values())


def with_defaults(service: Service, values: Mapping[str, PlacedText]) -> Service:
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
