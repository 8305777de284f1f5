"""Whether a test expected the verdict that it caught: it did if its handler names the verdict.

`pytest.raises(GuestPanic)` and `except GuestPanic` say that the test expects its guest to panic.
`except Exception`, a loop that tries again, or `pytest.raises(Exception)` would also catch verdicts
that nobody expects.
"""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from types import FrameType

from pytest_kernelvm.errors import KernelvmError


def is_caught_by_name(error: KernelvmError) -> bool:
    """Return whether the code that caught an error names its class or a verdict's base class.

    A `with` statement that binds what it caught (`pytest.raises(…) as raised`) may also name
    KernelvmError itself: the test can look at the error.

    Args:
        error: The error, with the traceback that it had when it was caught.

    Returns:
        Whether a handler names it; False for code without a source.
    """
    return any(
        isinstance(named, type)
        and isinstance(error, named)
        and issubclass(named, KernelvmError)
        and (is_bound or named is not KernelvmError)
        for frame, node, is_bound in _handlers(error)
        for named in _named(node, frame)
    )


def is_reported(error: KernelvmError) -> bool:
    """Return whether an error left the test's own code, so that pytest reports it."""
    caught = error.__traceback__
    where = caught.tb_frame.f_globals.get("__name__", "") if caught else ""
    return str(where).partition(".")[0] in ("_pytest", "pluggy")


def where_caught(error: KernelvmError) -> str:
    """Return `file:line` of the code in which an error was caught.

    Returns:
        The place; empty for an error that was never raised.
    """
    caught = error.__traceback__
    return f"{caught.tb_frame.f_code.co_filename}:{caught.tb_lineno}" if caught else ""


def _handlers(error: KernelvmError) -> Iterator[tuple[FrameType, ast.expr, bool]]:
    """Yield what the handlers name around the place where an error was caught.

    The first frame of its traceback is the one in which it was caught.

    Yields:
        The frame, the expression of an `except` or `with`, and whether it is a `with` that binds
        what it caught.
    """
    caught = error.__traceback__
    if caught is None:
        return
    frame, line = caught.tb_frame, caught.tb_lineno
    for node in ast.walk(_parsed(frame.f_code.co_filename)):
        if not _holds(node, line):
            continue
        if isinstance(node, ast.With):
            for item in node.items:
                yield frame, item.context_expr, item.optional_vars is not None
        elif isinstance(node, ast.Try) and any(_holds(each, line) for each in node.body):
            for handler in node.handlers:
                if handler.type:
                    yield frame, handler.type, False


def _holds(node: ast.AST, line: int) -> bool:
    start, end = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    return start is not None and end is not None and start <= line <= end


@functools.lru_cache(maxsize=32)
def _parsed(filename: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _named(node: ast.expr, frame: FrameType) -> Iterator[object]:
    """Yield the values of the names in an expression, as the frame knows them."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield _value(frame, each.id)
        elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            yield getattr(_value(frame, each.value.id), each.attr, None)


def _value(frame: FrameType, name: str) -> object:
    found: object = frame.f_locals.get(name, frame.f_globals.get(name))
    return found
