"""Values of masks become labels that are numbered from 1."""

from __future__ import annotations

import pytest

from recycleseg.data.numbering import number_classes


def test_one_name_and_one_value_fit_always() -> None:
    numbering = number_classes([0, 255], {"organ": 1})
    assert numbering.labels == {"background": 0, "organ": 1}
    assert numbering.new_value == {255: 1}
    assert numbering.notes == ("mask value 255 becomes 1, because labels are numbered from 1",)


def test_given_labels_keep_their_regions_and_absent_values() -> None:
    numbering = number_classes([0, 2, 4], {"whole": (2, 4, 9), "core": 4})
    assert numbering.labels == {"background": 0, "whole": [1, 2, 3], "core": 2}
    assert numbering.new_value == {2: 1, 4: 2, 9: 3}


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        ([0], None, "masks: expected foreground, got 0 everywhere"),
        (range(256), None, "at most 32 label values, got 255 .1, 2, 3, 4, 5 and 250 more.*grey"),
        ([0, 1, 2], {"a": 1}, "expected a name for every value in the masks, got none for 2"),
        ([0, 128, 255], {"a": 1, "b": 2}, "got none for 128, 255; named are 1, 2"),
    ],
)
def test_labels_that_do_not_fit(
    values: list[int], given: dict[str, int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        number_classes(list(values), given)
