"""What a guest may say that must not reach a person as it is, and how that is seen."""

from __future__ import annotations

# By what they would do: the text, and a part of how it is shown.
HOSTILE = {
    "colour": ("a\x1b[31mred", "a\\x1b[31mred"),
    "clear the screen": ("a\x1b[2J\x1b[Hb", "\\x1b[2J\\x1b[H"),
    "the window's title": ("\x1b]0;owned\x07z", "\\x1b]0;owned\\x07z"),
    "the clipboard": ("\x1b]52;c;cm0gLXJm\x1b\\", "\\x1b]52;c;cm0gLXJm\\x1b"),
    "ask for an answer": ("\x1b[6n\x1b[c\x05", "\\x1b[6n\\x1b[c\\x05"),
    "device control": ("\x1bP$q\x1b\\", "\\x1bP$q\\x1b"),
    "another set of characters": ("\x0e\x1b(0", "\\x0e\\x1b(0"),
    "CSI in one byte": ("\x9b31m", "\\x9b31m"),
    "OSC in one byte": ("\x9d0;t\x9c", "\\x9d0;t\\x9c"),
    "NUL": ("a\0b", "a\\x00b"),
    "DEL": ("a\x7fb", "a\\x7fb"),
    "overwrite the line": ("FAILED\rpassed", "FAILED\\rpassed"),
    "rub it out": ("FAILED\b\b\b\b\b\bpassed", "\\x08\\x08passed"),
    "form feed": ("a\x0c\x0bb", "a\\x0c\\x0bb"),
    "right to left override": ("\u202egnp.exe", "\\u202egnp.exe"),
    "isolates": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "marks of direction": ("\u200fa\u061c", "\\u200fa\\u061c"),
    "nothing to be seen": ("a\u200b\u00ad\ufeffb", "a\\u200b\\xad\\ufeffb"),
    "separators of lines": ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
    "a lone surrogate": ("a\ud800b", "a\\ud800b"),
    "bytes that are no UTF-8": (b"a\xff\xc3(".decode("utf-8", "surrogateescape"), "a\\xff\\xc3("),
    "tags": ("\U000e0041\U000e007f", "\\U000e0041\\U000e007f"),
    "no character": ("\uffff\ufffe\U0001ffff", "\\uffff\\ufffe\\U0001ffff"),
}


def raw(text: str) -> bytes:
    """Return the bytes with which a guest says a text."""
    foreign = any("\udc80" <= each <= "\udcff" for each in text)
    return text.encode("utf-8", "surrogateescape" if foreign else "surrogatepass")


def unprintable(shown: str) -> set[str]:
    """Return what in a text that was shown commands a terminal or is not to be seen."""
    return {each for each in shown if not (each.isprintable() or each in "\n\t")}
