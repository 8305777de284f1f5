"""The verb `schema`: the JSON Schema of a vm-config."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from pytest_kernelvm.config.schema import json_schema

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs


def add_schema(verbs: Verbs) -> None:
    """Declare `schema`."""
    text = "print the JSON Schema of a vm-config"
    verb = verbs.add_parser("schema", help=text, description=text)
    verb.set_defaults(verb=_schema)


def _schema(_arguments: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return 0
