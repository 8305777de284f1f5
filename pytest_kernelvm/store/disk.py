"""Errors of the disk that a store is on, as errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError, KernelvmError
from pytest_kernelvm.store.writing import FULL, REFUSED, raise_if_full

STORE_VARIABLE = "KERNELVM_STORE"


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn errors of the operating system into BadInput or HarnessError with advice.

    A program that met a full disk says so in words.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        ours = name is None or Path(str(name)).is_relative_to(root)
        refused = error.errno in REFUSED and ours
        raise (not_writable if refused else _failed)(root, error) from error
    except HarnessError as error:
        try:
            raise_if_full(error.evidence.excerpt)
        except OSError as full:
            raise _failed(root, full) from error
        raise


def not_writable(root: Path, error: OSError) -> KernelvmError:
    """Return the error for a store that refuses to be written, HarnessError for a full disk."""
    if error.errno in FULL:
        return _failed(root, error)
    return BadInput(
        f"the store is not writable: {error}",
        Evidence(
            where=(str(root),),
            next_step="make it and all below it yours to write, or name another directory "
            f"with {STORE_VARIABLE}",
        ),
    )


def _failed(root: Path, error: OSError) -> HarnessError:
    full = error.errno in FULL
    return HarnessError(
        f"the disk of the store is full: {error}" if full else f"the store failed: {error}",
        Evidence(
            where=(str(root),),
            next_step=f"make room, or name another directory with {STORE_VARIABLE}",
        ),
    )
