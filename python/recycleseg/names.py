"""Names are data: how they become file names, and how they are shown without doing anything.

Names come from files of others: of data sets, classes, channels, cases, patients, folders. They may
hold control codes of a terminal, markup, formulas, paths, or bytes that are no text. Programs that
write such names escape them for each kind of output:

    terminal, pictures, TensorBoard, YAML comments, commands    printable, printable_message
    HTML                                                        printable, then Jinja2's escaping
    CSV                                                         csv_cell, name_in_cell
    file names                                                  file_name
    JSON, YAML values                                           their libraries escape all

A case keeps its name in all its files, so `case_problem` decides which names a case may have.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata

# Categories of Unicode that no output shows: control codes, invisible marks of layout such as the
# reversal of the writing direction, bytes that are no text, and separators of lines.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Invisible, but Persian, Indian scripts and emoji are written with them.
_JOINERS = "\u200c\u200d"
# The ends of lines that `recycleseg.files.listed` makes.
LINE_OF_LIST = re.compile(r"\n(?=(?:  )+- )")

# What makes a spreadsheet take a cell for a formula, at the start or after a separator of cells.
_FORMULA = re.compile(r"(^|;)(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])")
_MARKED = re.compile(r"(^|;)'(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])")

# In bytes. File systems allow 255, and the longest ending of a file of a case has 7.
_LONGEST_CASE = 248
_LONGEST_FILE_NAME = 100
# Windows takes these for devices, whatever their ending.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(?:\.|$)")
_HASHED = re.compile(r"-[0-9a-f]{12}$")


def printable(text: str) -> str:
    r"""The text in one line, in which all that would not be seen is escaped.

    A control code is shown as "\x1b", a line end as "\n", a mark of the writing direction as
    "\u202e", and a byte of a file name that is not UTF-8 as "\xe9".
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c) for c in text)


def printable_message(text: str) -> str:
    """`printable` for a message that may be a list; see `recycleseg.files.listed`."""
    return "\n".join(map(printable, LINE_OF_LIST.split(text)))


def csv_cell(name: str) -> str:
    """A name as a cell that no spreadsheet takes for a formula: "'" stands before =, +, - and @."""
    return _FORMULA.sub(r"\1'", printable(name))


def name_in_cell(cell: str) -> str:
    """The printable name of which `csv_cell` made a cell."""
    return _MARKED.sub(r"\1", cell)


def file_name(name: str) -> str:
    """A name for a file or folder on every system, without ending.

    A name in small ASCII letters, digits, spaces, ".", "_" and "-" stays as it is, unless it is
    longer than 100, begins with a dot or dash, or is a device of Windows. Of another name the
    letters and digits stay, and its hash follows. So distinct names are distinct, also for file
    systems that take small and capital letters as the same.
    """
    safe = re.sub(r"[^\w.\- ]", "_", folded(name)).lstrip(" .-")
    safe = safe.encode()[:_LONGEST_FILE_NAME].decode(errors="ignore").rstrip(" .")
    if _RESERVED.match(safe):
        safe = f"_{safe}"
    if safe == name and name.isascii() and not _HASHED.search(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{safe}-{digest}" if safe else f"_-{digest}"


def folded(name: str) -> str:
    """Equal for names that some file systems take as the same: Liver and liver, two codes of é."""
    return unicodedata.normalize("NFC", name).casefold()


def case_problem(case_id: str) -> str | None:
    """What is wrong with the name of a case, in one line; None for a sound name.

    The files of a case are named after it, in every folder. So its name must be text without
    control codes, no path, not hidden, and short enough for a file.
    """
    shown = printable(case_id)
    if shown != case_id:
        return f"{shown}: expected a case name in UTF-8 without control codes, got another"
    if not case_id or case_id.startswith(".") or "/" in case_id:
        return f"{shown!r}: expected a case name without / and without a dot at its start"
    if (size := len(os.fsencode(case_id))) > _LONGEST_CASE:
        return f"{shown[:40]}...: expected a case name of up to {_LONGEST_CASE} bytes, got {size}"
    return None


def is_utf_8(text: str) -> bool:
    """Whether the text has no bytes of file names in another encoding, which YAML cannot hold."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _shown(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    if unicodedata.category(c) in _HIDDEN and c not in _JOINERS:
        return c.encode("unicode_escape").decode()
    return c
