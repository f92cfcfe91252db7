"""Names that break programs which take a name for more than data, and how to look for damage."""

from __future__ import annotations

import unicodedata
from pathlib import Path

# What it attacks -> name.
HOSTILE = {
    "rich closing tag": "left [/b]",
    "rich tag": "core [mm]",
    "rich style": "[bold red]x[/]",
    "rich link": "[link=file:///x]y[/link]",
    "emoji": "a :smile: b",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1+1",
    "minus": "-2+3",
    "at": "@SUM(A1:A9)",
    "wide formula": "\uff1d1+1",
    "quoted formula": "'=1+1",
    "next cell": "a;=1+1",
    "colour code": "\x1b[31mred\x1b[0m",
    "title code": "\x1b]0;owned\x07",
    "8-bit code": "\x9b31mred",
    "forged line": "a\nrecycle-train: all is well",
    "carriage return": "bad\rgood",
    "backspace": "bad\b\b\bgood",
    "tab": "\tx",
    "NUL": "a\0b",
    "line separator": "a\u2028b",
    "right to left": "abc\u202egnp.exe",
    "isolate": "a\u2066b\u2069",
    "byte order mark": "\ufeffx",
    "no width": "a\u200bb",
    "Latin-1 byte": "caf\udce9",
    "lone surrogate": "a\ud83d",
    "script": "</title></script><script>alert(1)</script>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "entity": "&lt;b&gt;",
    "template": "{{ 7*7 }}{% raw %}",
    "format": "{0.__class__}%s%n",
    "mathematics": "$\\frac{$",
    "two dollars": "cost $x_1$ or $y^2$",
    "private": "_hidden",
    "path": "../../outside",
    "absolute path": "/outside",
    "Windows path": "..\\..\\outside",
    "drive": "C:outside",
    "slash": "liver/left",
    "dot": "liver.left",
    "parent": "..",
    "hidden": ".hidden",
    "option": "--overwrite",
    "home": "~",
    "variable": "$HOME",
    "shell": "x; touch outside",
    "device": "CON",
    "device with ending": "nul.txt",
    "end of Windows names": "x. ",
    "YAML": "a: [b # c",
    "JSON": '{"a": 1}',
    "long": "n" * 300,
    "long letters": "\u00fc" * 200,
    "Chinese": "\u5de6\u5fc3\u5ba4",
    "Persian": "\u0645\u06cc\u200c\u0631\u0648\u0645",
    "capital": "Liver",
    "small": "liver",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "mean": "mean",
    "number": "1",
}
# Of these a file can be made on Linux.
FILES = {
    what: name
    for what, name in HOSTILE.items()
    if not {"/", "\0"} & set(name)
    and not any("\ud800" <= c < "\udc80" for c in name)
    and len(name.encode(errors="surrogateescape")) < 240
    and not name.startswith(".")
}


def controls(text: str) -> set[str]:
    """Characters that would do something in place of being seen, but for the ends of lines."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {c for c in text if unicodedata.category(c) in kinds} - set("\n\u200c\u200d")


def everything_in(root: Path) -> set[str]:
    """All files and folders below a folder, by their relative names."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}
