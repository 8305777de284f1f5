"""JSON of others: what it may say, and how mistakes in it are reported."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from pytest_kernelvm.foreign.json_fields import (
    Fields,
    Malformed,
    file_name,
    parse_json,
    printable_text,
    relative_name,
)

TEXTS: dict[bytes, str] = {
    b"": "no JSON: Expecting value: line 1 column 1 (char 0)",
    b"{": "no JSON: Expecting property name",
    b'{"a": 1, "a": 2}': "no JSON: a name is given twice",
    b'{"a": NaN}': "no JSON: NaN is no number",
    b'"\xff"': "not UTF-8",
    '{"a": 1}'.encode("utf-16"): "not UTF-8",
    b"[" * 100_000: "nested too deeply",
    b"9" * 50_000: "no JSON: Exceeds the limit",
    b" " * 100_001: "more than 100000 bytes",
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_invalid_json_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_json(text, "bundle.json", most_bytes=100_000)
    assert caught.value.reason.startswith(TEXTS[text])
    assert caught.value.evidence.seen.startswith(TEXTS[text])
    assert caught.value.evidence.where == ("bundle.json",)
    assert str(caught.value).startswith("bad-input: a file is damaged\n  expected: JSON\n")


GIVEN = {
    "text": "x",
    "long": "x" * 600,
    "turned": "a\u202eb",
    "number": 5,
    "true": True,
    "null": None,
    "list": [1, "x"],
    "object": {"inner": 7},
}
REASONS: dict[str, Callable[[Fields], object]] = {
    "nosuch is not there": lambda it: it.text("nosuch", shape="a text"),
    "number is 5, not a text": lambda it: it.text("number", shape="a text"),
    r"turned is 'a\u202eb', not a line of at most 500 characters": lambda it: it.printable(
        "turned"
    ),
    "text is 'x', not one of 'y', 'z'": lambda it: it.choice("text", ("y", "z")),
    "true is True, not a whole number from 0 to 9": lambda it: it.whole("true", 0, 9),
    "number is 5, not a number from 6 to 9": lambda it: it.number("number", 6, 9),
    "null is None, not true or false": lambda it: it.flag("null"),
    "list is [1, 'x'], not an object": lambda it: it.mapping("list"),
    "object.inner is 7, not a text": lambda it: it.fields("object").text("inner", shape="a text"),
    "list[0] is 1, not an object": lambda it: it.objects("list", 9),
    "list[1] is 'x', not a whole number from 0 to 9": lambda it: it.whole_numbers("list", 0, 9, 9),
}


@pytest.mark.parametrize("reason", REASONS)
def test_invalid_fields_are_reported(reason: str) -> None:
    fields = Fields(GIVEN, "bundle.json")
    with pytest.raises(Malformed) as caught:
        REASONS[reason](fields)
    error = caught.value
    assert error.reason == reason
    assert error.summary == f"{reason.partition(' ')[0]} is not what it can be"
    assert error.evidence.where == ("bundle.json",)
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, str(again)) == (reason, str(error))


def test_a_field_that_nobody_knows() -> None:
    with pytest.raises(Malformed) as caught:
        Fields({"\x1b": 1}).done()
    assert caught.value.reason == r"'\x1b' is no field of it"
    assert caught.value.summary == "a field is not what it can be"


def test_a_long_value_is_cut() -> None:
    with pytest.raises(Malformed) as caught:
        Fields(GIVEN).printable("long")
    assert len(caught.value.reason) < 200
    assert caught.value.evidence.where == ()


def test_fields_that_are_right() -> None:
    it = Fields(GIVEN, defaults={"later": 3, "number": 9})
    assert it.text("text", shape="a text") == "x"
    assert (it.number("number", 0, 9), it.whole("later", 0, 9)) == (5.0, 3)
    assert it.flag("true")
    assert it.is_null("null")
    assert it.mapping("object") == {"inner": 7}
    assert it.names == ("long", "turned", "list")


def test_other_values_than_objects_are_refused() -> None:
    with pytest.raises(Malformed) as caught:
        Fields([], "x")
    assert caught.value.reason == "it is [], not an object"


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "/a", "a//b", "a/", "a\0", "a" * 5000])
def test_a_name_that_leads_out(name: str) -> None:
    with pytest.raises(Malformed, match="is no file below an entry"):
        relative_name(name)


@pytest.mark.parametrize("name", ["a/b", "a\n", "a" * 256, "\u202e"])
def test_paths_that_are_no_file_names(name: str) -> None:
    assert relative_name(name) == name
    with pytest.raises(Malformed, match="is no name of a file"):
        file_name(name)


def test_a_text_that_cannot_be_shown() -> None:
    assert printable_text("6.12", "its version") == "6.12"
    with pytest.raises(Malformed, match=r"its version is '6\\x1b', not a line of text"):
        printable_text("6\x1b", "its version")
