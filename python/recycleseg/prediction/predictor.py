"""Trained runs as a function from image files to segmentations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from recycleseg.data.preprocess import preprocess_image
from recycleseg.data.volumes import Volume, file_ending, read_volume, write_like
from recycleseg.prediction.model import Model
from recycleseg.prediction.native import Prepared, to_native
from recycleseg.prediction.postprocess import cleaned
from recycleseg.progress import Progress, part_of


@dataclass(frozen=True)
class Prediction:
    """A segmentation on the grid of the image file; what was not asked for is None or empty.

    Attributes:
        label: (*S) uint8, the data set's label values, also where classes overlap (see
            `recycleseg.classes.Classes.label_map`); post-processed, if that is wanted.
        probs: (C, *S) float32; of overlapping classes a voxel belongs to each of at least
            one half.
        entropy: (*S) float32, of the mean probabilities in nats; of overlapping classes the sum
            over them.
        disagreement: (*S) float32, the entropy less the mean of the members' entropies (samples
            and models), at least 0: what more members of this kind may resolve.
        steps: label map (*S) uint8 after each sampling step, each post-processed as the last one,
            which is `label`.
        volume: the image file as read, whose grid this is.
    """

    label: Tensor
    probs: Tensor | None
    entropy: Tensor | None
    disagreement: Tensor | None
    steps: tuple[Tensor, ...]
    volume: Volume

    def save(self, path: Path | str) -> None:
        """Write the label on the image's grid, in the format of the suffix.

        A NIfTI file keeps the affines of the image and their codes, a PNG its pixel size.
        """
        write_like(path, self.label.numpy(), self.volume)


class Predictor:
    """Segments images of any size and spacing, by one trained run or the mean of several.

    One volume of the prepared grid is held for each model's probabilities, and while it samples
    one more for its state; the way back to the file's grid goes slab by slab.

    Raises ValueError naming both models where their classes or channels differ.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ValueError("models: expected at least one, got none")
        for model in models[1:]:
            _check_same_task(models[0], model)
        self.models = tuple(models)
        self.postprocess = models[0].config.postprocess

    @classmethod
    def load(cls, run: Path | str, *, device: str = "auto", **options: Any) -> Predictor:
        """Load a run folder that `recycle-train` wrote, with its best weights.

        Args:
            run: the folder.
            device: as `runtime.device` names it; it need not be the one of the training.
            options: fields of `recycleseg.run.config.SamplingConfig` in the place of the run's own,
                and `seed`, `overlap` (of windows) and `postprocess` (a PostprocessConfig)
                likewise.

        Raises:
            ValueError: naming the file that is missing or not as expected, the option that is not
                known or out of its range, or the device that is not there.
        """
        return cls.load_many([run], device=device, **options)

    @classmethod
    def load_many(
        cls, runs: Sequence[Path | str], *, device: str = "auto", **options: Any
    ) -> Predictor:
        """Load runs whose mean probabilities are taken; otherwise as `load`.

        Their spacing, windows, strategy and steps may differ; classes and channels may not.
        """
        return cls([Model.load(run, device=device, **options) for run in runs])

    def __call__(
        self,
        images: Path | str | Sequence[Path | str],
        *,
        case_id: str | None = None,
        return_probs: bool = False,
        return_uncertainty: bool = False,
        return_steps: bool = False,
        progress: Progress | None = None,
    ) -> Prediction:
        """Segment one case: its image file, or one file per channel.

        Args:
            images: the files.
            case_id: decides the noise, together with the seed; None: the file's name, without
                ending and channel number.
            return_probs: whether to give the probabilities on the file's grid.
            return_uncertainty: whether to give entropy and disagreement.
            return_steps: whether to give the label map after every sampling step. Not of several
                models.
            progress: called with the work done and all the work, whose ratio grows to 1.

        Raises:
            FileError: a file cannot be read, or the files do not fit the models.
            ValueError: return_steps of several models.
        """
        number = len(self.models)
        if return_steps and number > 1:
            raise ValueError(f"return_steps: expected one model, got {number}")
        paths = [Path(p) for p in ([images] if isinstance(images, (str, Path)) else images)]
        volumes = [read_volume(path) for path in paths]
        results: list[Prepared] = []
        steps: list[Tensor] = []
        for index, model in enumerate(self.models):
            case = preprocess_image(volumes, model.plan, case_id=case_id or case_id_of(paths))

            def keep_label(step: int, probs: Tensor, case: Any = case) -> None:
                steps.append(self._cleaned(to_native([Prepared(case, probs)]).label))

            results.append(
                model(
                    case,
                    on_step=keep_label if return_steps else None,
                    uncertainty=return_uncertainty,
                    progress=part_of(progress, index, number),
                )
            )
        native = to_native(
            results, return_probs=return_probs, return_uncertainty=return_uncertainty
        )
        return Prediction(
            self._cleaned(native.label),
            native.probs,
            native.entropy,
            native.disagreement,
            steps=tuple(steps),
            volume=volumes[0],
        )

    def _cleaned(self, label: Tensor) -> Tensor:
        return cleaned(label, self.postprocess, self.models[0].plan.classes)


def case_id_of(paths: Sequence[Path]) -> str:
    """Name of a case by the names of its images, one a channel: without ending and channel number.

    As `recycle-predict` calls it: one image is a channel if it is number 0000, else CASE_0001 is
    the name of a case.
    """
    name = paths[0].name.removesuffix(file_ending(paths[0]))
    return re.sub(r"_\d{4}$" if len(paths) > 1 else "_0000$", "", name)


def _check_same_task(first: Model, other: Model) -> None:
    tasks = [
        {
            "channel_names": model.plan.channel_names,
            "classes": model.plan.classes.labels,
            "spatial_dims": model.plan.spatial_dims,
        }
        for model in (first, other)
    ]
    for name, expected in tasks[0].items():
        if (got := tasks[1][name]) != expected:
            raise ValueError(f"{other.name}: expected {name} {expected} as {first.name}, got {got}")
    if first.config.postprocess != other.config.postprocess:
        raise ValueError(
            f"{other.name}: expected {first.config.postprocess} as {first.name}, got "
            f"{other.config.postprocess}; say which with the option postprocess"
        )
