"""The JSON Schema of a vm-config, made from the rows of its keys."""

from __future__ import annotations

from typing import Any

from pytest_kernelvm.config.model import VM_CONFIG

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a vm-config."""
    return {"$schema": SCHEMA_ID, "title": "pytest-kernelvm vm-config", **VM_CONFIG.schema()}
