"""Values of options in the forms in which people write them."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from recycleseg.run.values import fitted

SIZES = tuple[int, ...] | None
SCALES = int | tuple[int | tuple[int, ...], ...]
NAMES = tuple[str, ...] | str


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("7", int, 7),
        ("1e4", int, 10_000),
        (1e4, int, 10_000),
        ("-3", int, -3),
        ("1e-4", float, 1e-4),
        (2, float, 2.0),
        ("Yes", bool, True),
        (False, bool, False),
        ("null", int | None, None),
        ("32,48,32", SIZES, (32, 48, 32)),
        ("32x48x32", SIZES, (32, 48, 32)),
        ("32×48", SIZES, (32, 48)),
        ("[32, 48, 32]", SIZES, (32, 48, 32)),
        ("(32, 48)", SIZES, (32, 48)),
        ("64", SIZES, (64,)),
        ([32, "1e1"], SIZES, (32, 10)),
        ("1,1,2.5", tuple[float, ...] | Literal["median"], (1.0, 1.0, 2.5)),
        ("1x1x2.5", tuple[float, ...] | Literal["median"], (1.0, 1.0, 2.5)),
        ("median", tuple[float, ...] | Literal["median"], "median"),
        ("true,false", bool | tuple[bool, ...], (True, False)),
        ("2", SCALES, 2),
        ("2,1", SCALES, (2, 1)),
        ("2x2x1,2", SCALES, ((2, 2, 1), 2)),
        ("[[2,2,1],2]", SCALES, ((2, 2, 1), 2)),
        ("all", NAMES, "all"),
        ("a,b", NAMES, ("a", "b")),
        ('["a,b"]', NAMES, ("a,b",)),
        ("2", Literal[2, 3], 2),
        ("3", int | Literal["all"], 3),
        ("all", int | Literal["all"], "all"),
        ("1e4", str, "1e4"),
    ],
)
def test_values_that_fit(value: Any, hint: Any, expected: Any) -> None:
    found = fitted(value, hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("abc", int, "expected a whole number, got 'abc'"),
        ("1.5", int, "expected a whole number, got '1.5'"),
        (True, int, "expected a whole number, got true"),
        ("1e999", int, "expected a whole number, got '1e999'"),
        ("nan", float, "expected a number, got 'nan'"),
        ("0,5", float, "expected a number, got '0,5'; did you mean 0.5?"),
        ("maybe", bool, "expected true or false, got 'maybe'"),
        (1, bool, "expected true or false, got 1"),
        (5, str, "expected text, got 5"),
        ("", int, "expected a whole number, got an empty value"),
        (None, int, "expected a whole number, got null"),
        ("32 48", SIZES, "expected whole numbers such as 32,48,32, got '32 48'"),
        ("[32, x]", SIZES, "expected whole numbers such as 32,48,32, got '[32, x]'"),
        ("[32", SIZES, "expected whole numbers such as 32,48,32, got '[32'"),
        (
            "2x2x1",
            SCALES,
            "expected a whole number or a list such as [[2,2,1],2], got '2x2x1'",
        ),
        ("Standart", Literal["standard", "x"], "did you mean standard?"),
        ("4", Literal[2, 3], "expected 2 or 3, got '4'"),
        (True, Literal[1, 2], "expected 1 or 2, got true"),
    ],
)
def test_values_that_do_not_fit(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        fitted(value, hint)
    assert str(error.value).endswith(message)
