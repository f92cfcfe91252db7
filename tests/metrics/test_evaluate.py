"""All metrics at once, against SciPy and MONAI."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import recycleseg as rs
from recycleseg import _ext
from recycleseg.metrics import Scores, evaluate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def label_map(shape: tuple[int, ...], num_labels: int, seed: int) -> np.ndarray:
    """uint8 labels (*S) of blobs that touch one another."""
    noise = np.random.default_rng(seed).normal(size=(num_labels, *shape))
    return ndimage.gaussian_filter(noise, (0, *[2.0] * len(shape))).argmax(0).astype(np.uint8)


def surface_of(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def oracle(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...], tolerance: float = 1.0
) -> dict[str, float]:
    """Every metric of two masks, none of them empty, by its definition."""
    tp, n_pred, n_ref = (pred & ref).sum(), pred.sum(), ref.sum()
    surfaces = surface_of(pred), surface_of(ref)
    there, back = (
        ndimage.distance_transform_edt(~other, sampling=spacing)[own]
        for own, other in (surfaces, surfaces[::-1])
    )
    both = np.concatenate([there, back])
    centroids = [np.argwhere(mask).mean(0) * spacing for mask in (pred, ref)]
    voxel = math.prod(spacing)
    unit, size = ("volume_ml", voxel / 1000) if len(spacing) == 3 else ("area_mm2", voxel)
    return {
        "dice": 2 * tp / (n_pred + n_ref),
        "iou": tp / (pred | ref).sum(),
        "precision": tp / n_pred,
        "recall": tp / n_ref,
        f"pred_{unit}": n_pred * size,
        f"ref_{unit}": n_ref * size,
        "centroid_distance": float(np.linalg.norm(centroids[0] - centroids[1])),
        "hd": both.max(),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": both.mean(),
        "masd": (there.mean() + back.mean()) / 2,
        "mean_pred_to_ref": there.mean(),
        "mean_ref_to_pred": back.mean(),
        "hd95_pooled": np.percentile(both, 95),
        "nsd": (both <= tolerance * (1 + 1e-6)).mean(),
    }


def same(scores: dict[str, Any], expected: dict[str, float]) -> None:
    assert list(scores) == list(expected)
    assert scores == pytest.approx(expected, rel=1e-10, abs=1e-12)


PRED, REF = label_map((12, 14, 13), 4, 0), label_map((12, 14, 13), 4, 1)
SPACING = (1.2, 0.7, 2.5)
LABELS = {"a": 1, "b": (2,), "bc": (2, 3), "all": (1, 2, 3)}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("definitions", [("voxel",), ("surfel", "voxel")], ids=str)
@pytest.mark.parametrize("is_batch", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("convert", [np.asarray, np.asfortranarray, torch.from_numpy])
def test_surfaces_of_one_slice_are_those_of_the_image(
    convert: Callable[..., Any],
    backend: str,
    is_batch: bool,
    definitions: tuple[str, ...],
    axis: int,
) -> None:
    shape = (2, 20, 18) if is_batch else (20, 18)
    pred, ref = label_map(shape, 3, 4), label_map(shape, 3, 5)
    options: dict[str, Any] = {"labels": {"a": 1, "ab": (1, 2)}, "definitions": definitions}
    image = evaluate(pred, ref, spacing=(0.7, 0.9), batched=is_batch, **options)
    spacing = [0.7, 0.9]
    spacing.insert(axis, 5.0)
    slices = (convert(np.expand_dims(maps, len(shape) - 2 + axis)) for maps in (pred, ref))
    volume = evaluate(*slices, spacing=spacing, batched=is_batch, backend=backend, **options)
    for label, metrics in image.items():
        for name, value in metrics.items():
            if name.endswith("area_mm2"):  # the volume has a thickness
                name, value = name.replace("area_mm2", "volume_ml"), np.multiply(value, 5 / 1000)
            # "reference" sums in another order.
            np.testing.assert_allclose(volume[label][name], value, rtol=1e-12, err_msg=name)


def test_a_structure_in_one_slice_of_many_has_a_surface_on_both_sides() -> None:
    pred, ref = np.zeros((12, 12, 3), np.uint8), np.zeros((12, 12, 3), np.uint8)
    pred[2:9, 2:9, 1] = 1
    ref[3:8, 3:8, 1] = 1
    scores = evaluate(pred, ref, spacing=(1, 1, 5), labels={"a": 1}, tolerance_mm=0.5)
    # Every voxel is surface: 49 and 25, of which 25 coincide.
    assert scores["a"]["nsd"] == pytest.approx(2 * 25 / (49 + 25), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((12, 14, 13), SPACING), ((40, 37), (0.7, 0.9))], ids=["3D", "2D"]
)
def test_label_maps_match_scipy(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    pred, ref = label_map(shape, 4, 2), label_map(shape, 4, 3)
    scores = evaluate(pred, ref, spacing=spacing, labels=LABELS)
    assert isinstance(scores, Scores)
    assert list(scores) == list(LABELS)
    for name, values in LABELS.items():
        same(scores[name], oracle(np.isin(pred, values), np.isin(ref, values), spacing))
        assert all(isinstance(value, float) for value in scores[name].values())
    assert (scores.spacing, scores.tolerances_mm, scores.percentile) == (spacing, (1.0,), 95.0)
    assert (scores.definitions, scores.border_is_outside) == (("voxel",), True)


@pytest.mark.parametrize("shape", [(12, 14, 13), (40, 37)], ids=["3D", "2D"])
def test_without_spacing_lengths_are_in_pixels(shape: tuple[int, ...]) -> None:
    pred, ref = label_map(shape, 4, 2), label_map(shape, 4, 3)
    options = {"labels": LABELS, "tolerance_mm": (1.0, 2.0), "definitions": ("voxel", "surfel")}
    scores = evaluate(pred, ref, spacing=None, **options)
    ones = evaluate(pred, ref, spacing=(1.0,) * len(shape), **options)
    assert (scores.unit, scores.spacing, ones.unit) == ("pixels", None, "mm")
    renamed = {"area_mm2": "area_pixels", "volume_ml": "volume_voxels", "mm": "pixels"}
    for name, values in ones.table.items():
        old = next((old for old in renamed if name.endswith(old)), "")
        new = name.removesuffix(old) + renamed.get(old, "")
        voxels = 1000.0 if old == "volume_ml" else 1.0
        np.testing.assert_allclose(scores.table[new], voxels * values, rtol=1e-12)
    assert len(scores.table) == len(ones.table)
    assert not any("mm" in name or "ml" in name for name in scores.table)
    masks = [np.stack([np.isin(x, values) for values in LABELS.values()]) for x in (pred, ref)]
    of_masks = evaluate(*map(torch.from_numpy, masks), spacing=None, labels=list(LABELS))
    np.testing.assert_array_equal(of_masks.table["hd95"], scores.table["hd95"])


def test_a_batch_without_spacing() -> None:
    pred, ref = (np.stack([label_map((12, 13), 4, seed + k) for k in (0, 2)]) for seed in (2, 3))
    batch = evaluate(pred, ref, spacing=None, labels=LABELS, batched=True)
    for b in range(2):
        one = evaluate(pred[b], ref[b], spacing=None, labels=LABELS)["bc"]
        same({metric: values[b] for metric, values in batch["bc"].items()}, one)


def test_is_exported() -> None:
    assert rs.evaluate is evaluate
    assert rs.Scores is Scores


def test_a_batch_gives_arrays() -> None:
    maps = [
        np.stack([label_map((9, 11, 10), 3, seed) for seed in seeds]) for seeds in ((4, 5), (6, 7))
    ]
    scores = evaluate(*maps, spacing=SPACING, labels={"a": 1, "ab": (1, 2)}, batched=True)
    assert scores["a"]["hd95"].shape == (2,)
    for b in range(2):
        one = evaluate(maps[0][b], maps[1][b], spacing=SPACING, labels={"a": 1, "ab": (1, 2)})
        for name in one:
            same({m: values[b] for m, values in scores[name].items()}, one[name])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32])
def test_masks_may_overlap(dtype: type) -> None:
    pred = np.stack([PRED == 1, PRED > 1, PRED > 0]).astype(dtype) * dtype(3)
    ref = np.stack([REF == 1, REF > 1, REF > 0])
    expected = evaluate(PRED, REF, spacing=SPACING, labels={"a": 1, "b": (2, 3), "c": (1, 2, 3)})
    scores = evaluate(pred, ref, spacing=SPACING, labels=["a", "b", "c"])
    for name in "abc":
        same(scores[name], expected[name])
    batch = evaluate(pred[None], ref[None], spacing=SPACING, labels=("a", "b", "c"), batched=True)
    np.testing.assert_array_equal(batch["b"]["hd95"], [scores["b"]["hd95"]])


class OnlyDLPack:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "torch": torch.from_numpy,
    "dlpack": OnlyDLPack,
    "read-only": read_only,
    "first axis fastest": np.asfortranarray,
    "another order": lambda a: np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1),
    "reversed": lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
    "big-endian": lambda a: a.astype(">i2"),
    "sliced": lambda a: a.repeat(2, axis=1)[:, ::2],
    **{
        name: lambda a, name=name: a.astype(name)
        for name in ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array(kind: str) -> None:
    expected = evaluate(PRED, REF, spacing=SPACING, labels=LABELS)
    for maps in ((KINDS[kind](PRED), KINDS[kind](REF)), (PRED, KINDS[kind](REF))):
        scores = evaluate(*maps, spacing=SPACING, labels=LABELS)
        for name in LABELS:
            same(scores[name], expected[name])


@pytest.mark.gpu
@needs_gpu
def test_tensors_on_a_gpu() -> None:
    expected = evaluate(PRED, REF, spacing=SPACING, labels=LABELS)
    maps = [torch.from_numpy(array).cuda() for array in (PRED, REF)]
    scores = evaluate(*maps, spacing=SPACING, labels=LABELS)
    for name in LABELS:
        same(scores[name], expected[name])


@pytest.mark.parametrize(("num_axes", "unit"), [(2, "area_mm2"), (3, "volume_ml")])
def test_empty_structures(num_axes: int, unit: str) -> None:
    pred, ref = np.zeros((2, *[6] * num_axes), dtype=np.uint8)
    pred[1, 2] = 1
    ref[3, 4] = 2
    labels = {"invented": 1, "missed": 2, "neither": 3}
    scores = evaluate(pred, ref, spacing=(2.0,) * num_axes, labels=labels)
    size = {2: 4.0, 3: 6 * 8.0 / 1000}[num_axes]
    volumes = {"invented": (size, 0), "missed": (0, size), "neither": (0, 0)}
    zero = {"dice", "iou", "precision", "recall", "nsd"}
    for name, metrics in scores.items():
        metrics = dict(metrics)
        assert (metrics.pop(f"pred_{unit}"), metrics.pop(f"ref_{unit}")) == volumes[name]
        for metric, value in metrics.items():
            expected = math.nan if name == "neither" else 0.0 if metric in zero else math.inf
            np.testing.assert_equal(value, expected, err_msg=f"{name} {metric}")
    assert scores.aggregate()["missed"]["hd95"].num_inf == 1


def test_tolerances_and_percentiles_name_their_metrics() -> None:
    scores = evaluate(
        PRED, REF, spacing=SPACING, labels=LABELS, tolerance_mm=(1, 2.5), percentile=90
    )["a"]
    assert "nsd" not in scores and "hd95" not in scores
    for tolerance, name in ((1.0, "nsd_1mm"), (2.5, "nsd_2.5mm")):
        assert scores[name] == pytest.approx(oracle(PRED == 1, REF == 1, SPACING, tolerance)["nsd"])
    assert scores["hd90"] < scores["hd"]
    assert "hd90_pooled" in scores


def test_the_border_may_be_inside() -> None:
    pred, ref = np.ones((2, 8, 9), dtype=np.uint8)
    ref[:, 5:] = 0
    outside = evaluate(pred, ref, spacing=(1, 1), labels={"a": 1})["a"]
    inside = evaluate(pred, ref, spacing=(1, 1), labels={"a": 1}, border_is_outside=False)["a"]
    assert outside["hd"] == 4.0
    assert inside["hd"] == math.inf  # the full map has no surface
    assert inside["dice"] == outside["dice"]


def test_no_definition_leaves_the_overlap() -> None:
    scores = evaluate(PRED, REF, spacing=SPACING, labels=LABELS, definitions=())
    assert scores.metrics[-1] == "centroid_distance"


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own
def test_matches_monai() -> None:
    metrics = pytest.importorskip("monai.metrics")
    scores = evaluate(PRED, REF, spacing=SPACING, labels={"a": 1, "b": 2, "c": 3})
    masks = [torch.from_numpy(np.stack([a == c for c in range(4)])[None]) for a in (PRED, REF)]
    spacing: dict[str, Any] = {"spacing": SPACING}
    theirs = {
        "dice": metrics.compute_dice(*masks, include_background=False),
        "iou": metrics.compute_iou(*masks, include_background=False),
        "hd": metrics.compute_hausdorff_distance(*masks, **spacing),
        "hd95": metrics.compute_hausdorff_distance(*masks, percentile=95, **spacing),
        "assd": metrics.compute_average_surface_distance(*masks, symmetric=True, **spacing),
        "nsd": metrics.compute_surface_dice(*masks, class_thresholds=[1.0] * 3, **spacing),
    }
    for metric, values in theirs.items():
        ours = [scores[name][metric] for name in "abc"]
        np.testing.assert_allclose(ours, values[0], rtol=2e-6, err_msg=metric)  # theirs: float32


@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_matches_imgx(reference: Callable[[str], dict[str, np.ndarray]], dim: str) -> None:
    """ImgX gives NaN where one map lacks the structure, and for Dice of an empty reference."""
    arrays = reference("f_metrics")
    pred, ref = (arrays[f"{dim}/in/label_{name}"] for name in ("pred", "true"))
    spacing = tuple(float(s) for s in arrays[f"{dim}/in/spacing_aniso"])
    num_classes = arrays[f"{dim}/dice_score"].shape[1]
    labels = {str(c): c for c in range(num_classes)}
    table = evaluate(pred, ref, spacing=spacing, labels=labels, batched=True).table
    finite = np.isfinite(table["hd"])
    for ours, theirs in {
        "dice": "dice_score",
        "iou": "iou",
        "centroid_distance": "centroid_distance/aniso",
        "hd": "hausdorff_distance_100/aniso/sym",
        "hd95": "hausdorff_distance_95/aniso/sym",
        "nsd": "normalized_surface_dice_tol1.0/aniso",
    }.items():
        expected = arrays[f"{dim}/{theirs}"]
        np.testing.assert_allclose(table[ours][finite], expected[finite], rtol=2e-6, atol=1e-5)


def test_surfels_have_names_of_their_own() -> None:
    pytest.importorskip("recycleseg.ops.surfel_areas")
    both = evaluate(PRED, REF, spacing=SPACING, labels=LABELS, definitions=("voxel", "surfel"))
    scores = both["a"]
    same(
        {m: v for m, v in scores.items() if "surfel" not in m}, oracle(PRED == 1, REF == 1, SPACING)
    )
    assert 0 < scores["surfel_nsd"] < 1
    assert 0 < scores["surfel_assd"] < scores["surfel_hd95"] <= scores["surfel_hd"]
    assert "surfel_hd95_pooled" not in scores


MASKS = np.zeros((2, 4, 5), dtype=bool)
MAP = np.zeros((4, 5), dtype=np.uint8)
WRONG = MAP.copy()
WRONG[1, 2:4] = 2


@pytest.mark.parametrize(
    ("maps", "change", "message"),
    [
        (
            (WRONG, MAP),
            {"labels": {"a": 1}},
            r"pred: expected 0 and the labels 1, got 2 \(2 voxels",
        ),
        (
            (MAP, WRONG),
            {"labels": {"a": 1, "c": 3}},
            r"ref: expected 0 and the labels 1, 3, got 2 \(2 voxels\)",
        ),
        ((MAP.astype(float), MAP), {}, "pred: expected booleans or integers, got float64"),
        ((MAP, torch.zeros(4, 5)), {}, r"ref: expected booleans or integers, got torch\.float32"),
        ((MAP.astype(str), MAP), {}, "pred: expected booleans or integers, got <U"),
        ((MAP.astype(object), MAP), {}, "pred: expected booleans or integers, got object"),
        ((MAP, MAP.astype(complex)), {}, "ref: expected booleans or integers, got complex128"),
        (
            (torch.zeros(4, 5, dtype=torch.complex64), MAP),
            {},
            "pred: .*, got torch.complex64",
        ),
        ((MAP, MAP[:3]), {}, r"ref: expected the shape of pred, \(4, 5\), got \(3, 5\)"),
        ((MAP, torch.zeros(4, 5, device="meta").byte()), {}, "ref: expected the device of pred"),
        (
            (MAP[0], MAP[0]),
            {},
            r"pred: expected shape \(\*S\) with 2 or 3 .* got \(5,\); a batch",
        ),
        (
            (MAP, MAP),
            {"labels": ["a"]},
            r"pred: expected shape \(C, \*S\) with 2 or 3 axes in S, got \(4, 5\)",
        ),
        ((MAP[:0], MAP[:0]), {}, r"pred: expected at least one voxel, got shape \(0, 5\)"),
        ((MASKS, MASKS), {"labels": ["a"]}, "labels: expected 2 names, .* got 1"),
        ((MASKS, MASKS), {"labels": ["a", "a"]}, "labels: expected different names"),
        ((MAP, MAP), {"labels": {}}, r"labels: expected a mapping .* got \{\}"),
        ((MAP, MAP), {"labels": "liver"}, "labels: expected a mapping .* got 'liver'"),
        (
            (MAP, MAP),
            {"labels": {"a": ()}},
            r"labels\['a'\]: expected a label or a tuple of them, got \(\)",
        ),
        (
            (MAP, MAP),
            {"labels": {"a": -1}},
            r"labels\['a'\]: expected integers from 0 to 9223372036854775807, .*got -1",
        ),
        ((MAP, MAP), {"labels": {"a": (1, 2**63)}}, r"labels\['a'\]: .* got 9223372036854775808"),
        ((MAP, MAP), {"labels": {"a": 1.5}}, r"labels\['a'\]: .* got 1\.5"),
        ((MAP, MAP), {"spacing": 1.0}, r"spacing: expected 2 numbers.*got \(1\.0,\)"),
        ((MAP, MAP), {"spacing": "abc"}, r"spacing: expected numbers, got 'abc'"),
        ((MAP, MAP), {"labels": np.array([1, 2])}, r"labels: expected a mapping.*got array"),
        ((MAP, MAP), {"labels": ["a", 1]}, r"labels: expected different names.*got \['a', 1\]"),
        ((MAP, MAP), {"definitions": None}, r"definitions: expected a tuple .*got None"),
        ((MAP, MAP), {"spacing": (1.0,)}, r"spacing: expected 2 numbers.*got \(1\.0,\)"),
        (
            (MAP, MAP),
            {"spacing": (1.0, 0.0)},
            r"spacing: expected mm from 1e-09 .*got",
        ),
        (
            (MAP, MAP),
            {"spacing": (1.0, -1.0)},
            r"spacing: expected mm from 1e-09 .*got",
        ),
        (
            (MAP, MAP),
            {"spacing": (1.0, math.nan)},
            r"spacing: expected mm from 1e-09 .*got",
        ),
        ((MAP, MAP), {"tolerance_mm": -1}, r"tolerance_mm: .* got \(-1\.0,\)"),
        ((MAP, MAP), {"tolerance_mm": (1, 1)}, r"tolerance_mm: expected different, .* got"),
        ((MAP, MAP), {"percentile": 101}, "percentile: expected one number from 0 to 100"),
        (
            (MAP, MAP),
            {"definitions": ("mesh",)},
            r"definitions: expected a tuple of .* got \('mesh",
        ),
        (
            (MAP, MAP),
            {"definitions": ("voxel", "voxel")},
            r"definitions: expected different ones, got \('voxel', 'voxel'\)",
        ),
        ((MAP, MAP), {"definitions": "voxel"}, "definitions: expected a tuple of .* got 'voxel'"),
        (
            (MAP, MAP),
            {"definitions": ("surfel",), "border_is_outside": False},
            "border_is_outside: expected True for definition 'surfel'",
        ),
        ((MAP, MAP), {"backend": "gpu"}, r"backend: expected one of \('auto', "),
    ],
)
def test_bad_arguments_are_named(
    maps: tuple[Any, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(*maps, **{"spacing": (1.0, 1.0), "labels": {"a": 1}} | change)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="ref: expected a NumPy array, .* got list"):
        evaluate(MAP, [[0, 1]], spacing=(1, 1), labels={"a": 1})


def test_reference_backend_gives_the_same() -> None:
    expected = evaluate(PRED, REF, spacing=SPACING, labels=LABELS, backend="reference")
    scores = evaluate(PRED, REF, spacing=SPACING, labels=LABELS)
    assert _ext.HAS_CPP or scores.table["dice"].shape == (1, 4)
    for name in LABELS:
        same(scores[name], expected[name])


def test_masks_with_labels_are_not_taken_for_a_batch() -> None:
    masks = np.zeros((2, 5, 6), dtype=bool)
    masks[:, 1:3, 2:4] = True
    with pytest.raises(ValueError, match="labels: expected names alone, one for each mask"):
        evaluate(masks, masks, spacing=(1.0, 1.0), labels={"a": 1, "b": 2})
    assert evaluate(masks, masks, spacing=(1.0, 1.0), labels=["a", "b"])["b"]["dice"] == 1.0


def counts_of_nnunet(pred: np.ndarray, ref: np.ndarray, ignore: int, values: Any) -> list[int]:
    """TP, FP, FN and TN as nnU-Net counts them, over the voxels that are not ignored."""
    use, in_pred, in_ref = ref != ignore, np.isin(pred, values), np.isin(ref, values)
    pairs = ((in_ref, in_pred), (~in_ref, in_pred), (in_ref, ~in_pred), (~in_ref, ~in_pred))
    return [int((r & p & use).sum()) for r, p in pairs]


IGNORED_REF = REF.copy()
IGNORED_REF[4:9, :, 3:8] = 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("kind", ["numpy", "torch", "fortran"])
def test_ignored_voxels_count_nowhere(kind: str, dtype: Any) -> None:
    pred, ref = PRED.astype(dtype), IGNORED_REF.astype(dtype)
    if kind == "fortran":
        pred, ref = np.asfortranarray(pred), np.asfortranarray(ref)
    maps = (pred, ref) if kind != "torch" else (torch.from_numpy(pred), torch.from_numpy(ref))
    labels = {**LABELS, "ignore": 4}
    scores = evaluate(*maps, spacing=SPACING, labels=labels)
    assert list(scores) == list(LABELS)
    known = IGNORED_REF != 4
    expected = evaluate(PRED * known, IGNORED_REF * known, spacing=SPACING, labels=LABELS)
    for label in LABELS:
        assert scores[label] == expected[label]
    assert scores.outcomes is not None
    for outcome, values in zip(scores.outcomes[0].tolist(), LABELS.values(), strict=True):
        assert outcome == counts_of_nnunet(PRED, IGNORED_REF, 4, values)
    assert np.asarray(maps[1]).max() == 4  # the argument is not changed


def test_each_map_of_a_batch_has_its_own_ignored_voxels() -> None:
    labels = {"a": 1, "bc": (2, 3), "ignore": 4}
    batch = evaluate(
        np.stack([PRED, REF]),
        np.stack([IGNORED_REF, PRED]),
        spacing=SPACING,
        labels=labels,
        batched=True,
    )
    assert batch.outcomes is not None
    for b, (pred, ref) in enumerate(((PRED, IGNORED_REF), (REF, PRED))):
        alone = evaluate(pred, ref, spacing=SPACING, labels=labels)
        np.testing.assert_array_equal(batch.outcomes[b], alone.outcomes[0])
        assert {m: v[b] for m, v in batch["bc"].items()} == alone["bc"]


def test_an_ignore_label_that_no_map_can_hold_changes_nothing() -> None:
    for maps in ((PRED, REF), (torch.from_numpy(PRED), torch.from_numpy(REF))):
        labels = {"all": (1, 2, 3)}
        ignoring = evaluate(*maps, spacing=SPACING, labels={**labels, "ignore": 256 + 1})
        assert ignoring["all"] == evaluate(*maps, spacing=SPACING, labels=labels)["all"]


def test_a_prediction_may_not_hold_the_ignore_label() -> None:
    pred = PRED.copy()
    pred[0, 0, 0] = 4
    with pytest.raises(ValueError, match=r"pred: expected 0 and the labels 1, 2, 3, got 4 \(1 vox"):
        evaluate(pred, IGNORED_REF, spacing=SPACING, labels={**LABELS, "ignore": 4})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": 3, "ignore": 3}, r"labels\['ignore'\]: expected the highest value, .* above 3"),
        ({"a": (1, 3), "ignore": 2}, r"an integer above 3 and up to 9223372036854775807, got 2"),
        ({"a": 1, "ignore": (2, 3)}, r"got \(2, 3\)"),
        ({"a": 1, "ignore": 2**63}, "an integer above 1 and up to .*, got 9223372036854775808"),
        ({"ignore": 3}, "labels: expected a structure beside 'ignore', got none"),
    ],
)
def test_ignore_labels_that_do_not_fit(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(PRED, REF, spacing=SPACING, labels=labels)


def test_no_mask_can_be_ignored() -> None:
    masks = np.zeros((2, 4, 4), bool)
    with pytest.raises(ValueError, match="labels: expected no mask 'ignore', because"):
        evaluate(masks, masks, spacing=(1.0, 1.0), labels=["a", "ignore"])
