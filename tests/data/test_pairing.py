"""Masks are paired with images by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recycleseg.data.pairing import Pairing, pair_by_name
from recycleseg.files import FileError


def pair(tmp_path: Path, images: Sequence[str], masks: Sequence[str]) -> Pairing:
    for folder, names in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    return pair_by_name(tmp_path / "images", tmp_path / "masks")


def names_of(pairing: Pairing) -> list[tuple[str, list[str], str]]:
    return [(p.case_id, [path.name for path in p.images], p.mask.name) for p in pairing.pairs]


@pytest.mark.parametrize(
    ("image", "mask", "case_id"),
    [
        ("a.nii.gz", "a.nii.gz", "a"),
        ("a.nii.gz", "a.nii", "a"),
        ("img_0001.png", "img_0001.png", "img_0001"),
        ("patient001_frame01.nii.gz", "patient001_frame01_gt.nii.gz", "patient001_frame01"),
        ("000_HC.png", "000_HC_Annotation.png", "000_HC"),
        ("ISIC_0000000.png", "ISIC_0000000_segmentation.png", "ISIC_0000000"),
        ("volume-10.nii", "segmentation-10.nii", "volume-10"),
        ("image_7.png", "label_7.png", "image_7"),
        ("img7.png", "mask7.png", "img7"),
        ("7.png", "7mask.png", "7"),
        ("Case00.nii.gz", "Case00-gt.nii.gz", "Case00"),
        ("IMG_Case00.nii.gz", "case00_SEG.nii.gz", "IMG_Case00"),
        ("x.image.nii.gz", "x.ground_truth.nii.gz", "x.image"),
        ("case_3_0000.nii.gz", "case_3.nii.gz", "case_3"),
        ("volume_3_0000.nii.gz", "mask_3.nii.gz", "volume_3"),
        ("benign (1).png", "benign (1)_mask.png", "benign (1)"),
    ],
)
def test_names_that_fit(tmp_path: Path, image: str, mask: str, case_id: str) -> None:
    # Beside another case, so that a name must not only fit because nothing else is there.
    pairing = pair(tmp_path, [image, "other_99.png"], [mask, "other_99.png"])
    assert pairing.unpaired == ()
    assert (case_id, [image], mask) in names_of(pairing)
    assert len(pairing.pairs) == 2


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case_1.png", "case_10.png"),
        ("1.png", "001.png"),
        ("segment_1.png", "1.png"),
        ("imagine_1.png", "1.png"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, image: str, mask: str) -> None:
    pairing = pair(tmp_path, [image], [mask])
    assert pairing.pairs == ()
    assert [path.name for path in pairing.unpaired] == [image, mask]


def test_channels_of_one_case(tmp_path: Path) -> None:
    images = [f"{case}_{channel:04d}.nii.gz" for case in "ab" for channel in range(3)]
    pairing = pair(tmp_path, images, ["a_seg.nii.gz", "b_seg.nii.gz"])
    assert names_of(pairing) == [
        ("a", images[:3], "a_seg.nii.gz"),
        ("b", images[3:], "b_seg.nii.gz"),
    ]


def test_a_channel_is_missing(tmp_path: Path) -> None:
    pairing = pair(tmp_path, ["a_0000.png", "a_0002.png"], ["a.png"])
    assert pairing.pairs == () and len(pairing.unpaired) == 3


def test_a_name_that_fits_twice_is_not_guessed(tmp_path: Path) -> None:
    pairing = pair(tmp_path, ["a.png"], ["a_mask.png", "a_seg.png"])
    assert pairing.pairs == () and len(pairing.unpaired) == 3


def test_equal_names_come_first(tmp_path: Path) -> None:
    pairing = pair(tmp_path, ["a.png", "a_image.png"], ["a.png", "a_seg.png"])
    assert names_of(pairing) == [
        ("a", ["a.png"], "a.png"),
        ("a_image", ["a_image.png"], "a_seg.png"),
    ]


def test_one_folder_of_images_and_masks(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png", "b.png", "b_mask.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    pairing = pair_by_name(tmp_path, tmp_path)
    assert [(p.case_id, p.mask.name) for p in pairing.pairs] == [
        ("a", "a_mask.png"),
        ("b", "b_mask.png"),
    ]
    assert [path.name for path in pairing.ignored] == ["notes.txt"]


def test_a_sub_folder_is_a_case(tmp_path: Path) -> None:
    (tmp_path / "images/case_1").mkdir(parents=True)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/case_1.nii.gz").touch()
    pairing = pair_by_name(tmp_path / "images", tmp_path / "masks")
    assert names_of(pairing) == [("case_1", ["case_1"], "case_1.nii.gz")]


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=f"{tmp_path / 'file'}: expected a folder, got a file"):
        pair_by_name(tmp_path / "file", tmp_path)
    with pytest.raises(FileError, match="expected a folder, got a path that does not exist"):
        pair_by_name(tmp_path, tmp_path / "missing")
