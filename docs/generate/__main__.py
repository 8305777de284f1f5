"""Write every generated page of docs/reference: `make reference`."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import docs.generate

REFERENCE = Path(__file__).parents[1] / "reference"


def generated_pages() -> dict[Path, str]:
    """Return each generated page's file and its text.

    The page of the module `exit_codes` is `exit-codes.md`.
    """
    pages = {}
    for module in pkgutil.iter_modules(docs.generate.__path__):
        if not module.name.startswith("_"):
            page = importlib.import_module(f"docs.generate.{module.name}").page
            pages[REFERENCE / f"{module.name.replace('_', '-')}.md"] = page()
    return pages


if __name__ == "__main__":
    for file, text in generated_pages().items():
        file.write_text(text)
