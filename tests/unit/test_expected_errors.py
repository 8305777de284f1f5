"""Which handlers of a test say that it expects what they catch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from pytest_kernelvm import errors
from pytest_kernelvm.errors import GuestDied, GuestHang, GuestPanic, GuestSplat, KernelvmError
from pytest_kernelvm.plugin.expected_errors import is_caught_by_name, where_caught

PANIC = GuestPanic


class Case:
    """An error that a function of this file raises and another one catches."""

    def __init__(self) -> None:
        self.error = GuestPanic("provoked")

    def fails(self) -> None:
        raise self.error


def by_raises(case: Case) -> None:
    with pytest.raises(GuestPanic):
        case.fails()


def by_raises_among_others(case: Case) -> None:
    with pytest.raises((GuestSplat, GuestPanic), match="provoked"):
        case.fails()


def by_raises_all_of_ours(case: Case) -> None:
    with pytest.raises(KernelvmError) as raised:
        case.fails()
    assert raised.value.verdict is errors.Verdict.PANIC


def by_attribute(case: Case) -> None:
    with pytest.raises(errors.GuestPanic):
        case.fails()


def by_except(case: Case) -> None:
    try:
        case.fails()
    except (GuestHang, GuestPanic):
        return


def by_suppress(case: Case) -> None:
    with contextlib.suppress(GuestPanic):
        case.fails()


def by_another_name(case: Case) -> None:
    with pytest.raises(PANIC):
        case.fails()


def by_local_name(case: Case) -> None:
    expected = GuestPanic
    with pytest.raises(expected):
        case.fails()


@contextlib.contextmanager
def expecting_panic() -> Iterator[None]:
    try:
        yield
    except GuestPanic:
        pass
    else:
        raise AssertionError("no panic")


def by_own_context(case: Case) -> None:
    with expecting_panic():
        case.fails()


NAMING = (
    by_raises,
    by_raises_among_others,
    by_raises_all_of_ours,
    by_attribute,
    by_except,
    by_suppress,
    by_another_name,
    by_local_name,
    by_own_context,
)


@pytest.mark.parametrize("catch", NAMING)
def test_a_handler_that_names_the_verdict(catch: Callable[[Case], None]) -> None:
    case = Case()
    catch(case)
    assert is_caught_by_name(case.error)


def by_except_exception(case: Case) -> None:
    try:
        case.fails()
    except Exception:
        return


def by_bare_except(case: Case) -> None:
    try:
        case.fails()
    except:  # noqa: E722
        return


def by_raises_exception(case: Case) -> None:
    with pytest.raises(Exception):  # noqa: B017
        case.fails()


def by_suppress_exception(case: Case) -> None:
    with contextlib.suppress(Exception):
        case.fails()


def by_except_all_of_ours(case: Case) -> None:
    try:
        case.fails()
    except KernelvmError:
        return


def by_trying_again(case: Case) -> None:
    for _attempt in range(2):
        try:
            case.fails()
        except RuntimeError:
            raise
        except BaseException:
            continue


def by_naming_another(case: Case) -> None:
    try:
        case.fails()
    except GuestDied:
        raise
    except Exception:
        return


def in_the_wrong_place(case: Case) -> None:
    with pytest.raises(GuestPanic):
        raise GuestPanic("another one")
    try:
        case.fails()
    except Exception:
        return


def in_a_handler_of_the_named(case: Case) -> None:
    try:
        raise GuestPanic("another one")
    except GuestPanic:
        with contextlib.suppress(Exception):
            case.fails()


def by_suppress_all_of_ours(case: Case) -> None:
    with contextlib.suppress(KernelvmError):
        case.fails()


def by_raises_all_of_ours_unseen(case: Case) -> None:
    with pytest.raises(KernelvmError):
        case.fails()


NOT_NAMING = (
    by_suppress_all_of_ours,
    by_raises_all_of_ours_unseen,
    by_except_exception,
    by_bare_except,
    by_raises_exception,
    by_suppress_exception,
    by_except_all_of_ours,
    by_trying_again,
    by_naming_another,
    in_the_wrong_place,
    in_a_handler_of_the_named,
)


@pytest.mark.parametrize("catch", NOT_NAMING)
def test_a_handler_that_does_not_name_the_verdict(catch: Callable[[Case], None]) -> None:
    case = Case()
    catch(case)
    assert not is_caught_by_name(case.error)
    assert where_caught(case.error).startswith(f"{__file__}:")


def test_an_error_that_was_never_raised() -> None:
    assert not is_caught_by_name(GuestPanic("never raised"))
    assert where_caught(GuestPanic("never raised")) == ""


def test_code_without_a_source_names_nothing() -> None:
    case = Case()
    text = "try:\n    case.fails()\nexcept GuestPanic:\n    pass\n"
    exec(compile(text, "<no file>", "exec"), {"case": case, "GuestPanic": GuestPanic})
    assert not is_caught_by_name(case.error)
    assert where_caught(case.error) == "<no file>:2"
