"""Made-up scores of any number of cases and structures, without any images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from recycleseg.evaluation import FolderScores
from recycleseg.metrics.evaluate import evaluate


def synthetic_scores(
    num_cases: int,
    num_labels: int,
    *,
    pair: tuple[Path, Path] = (Path("prediction.nii.gz"), Path("reference.nii.gz")),
    seed: int = 0,
) -> FolderScores:
    """Scores with the spread of real ones: good, bad, missed, extra and absent structures.

    Args:
        num_cases, num_labels: B and C.
        pair: files of prediction and reference of all cases. The report draws from these alone;
            without files it says so in the place of a picture.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    size = (num_cases, num_labels)
    dice = rng.beta(18, 3, size)
    volume = rng.lognormal(3.0, 0.8, num_labels) * rng.lognormal(0.0, 0.3, size)
    kind = rng.choice(["both", "missed", "extra", "absent"], size, p=[0.96, 0.02, 0.01, 0.01])
    pred = np.where((kind == "both") | (kind == "extra"), volume * rng.normal(1, 0.1, size), 0.0)
    ref = np.where((kind == "both") | (kind == "missed"), volume, 0.0)
    distance = rng.gamma(2.0, 3.0, size) * (1.05 - dice)
    values = {
        "dice": (dice, 0.0),
        "nsd": (dice ** rng.uniform(0.5, 2.0, size), 0.0),
        "hd95": (2.0 * distance, np.inf),
        "assd": (0.4 * distance, np.inf),
    }
    one_sided = (kind == "missed") | (kind == "extra")
    table = {
        metric: np.where(kind == "absent", np.nan, np.where(one_sided, worst, usual))
        for metric, (usual, worst) in values.items()
    }
    table |= {"pred_volume_ml": np.abs(pred), "ref_volume_ml": ref}
    names = [f"structure {c + 1}" for c in range(num_labels)]
    labels = {name: c + 1 for c, name in enumerate(names)}
    voxel = np.ones((1, 1, 1), np.uint8)
    settings = evaluate(voxel, voxel, spacing=(1.0, 1.0, 1.0), labels=labels)
    case_ids = tuple(f"case_{b:0{len(str(num_cases - 1))}d}" for b in range(num_cases))
    return FolderScores(
        case_ids=case_ids,
        labels=labels,
        by_step=(replace(settings, table=table, batched=True, outcomes=None),),
        prediction_files=dict.fromkeys(case_ids, pair[0]),
        reference_files=dict.fromkeys(case_ids, pair[1]),
        prediction_roots=(pair[0].parent,),
    )
