"""Trained runs as one function from image files to segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recycleseg.classes import Labels
from recycleseg.data.preprocess import preprocess_image
from recycleseg.data.volumes import Volume, case_and_channel, case_name, read_image, write_like
from recycleseg.prediction.model import Model
from recycleseg.prediction.native import Prepared, to_native
from recycleseg.prediction.postprocess import cleaned
from recycleseg.progress import Progress, part_of


@dataclass(frozen=True)
class Prediction:
    """A segmentation on the grid of the image file; parts not asked for are None or empty.

    Attributes:
        label: (*S) uint8, the data set's label values, also for overlapping classes (see
            `recycleseg.classes.Classes.label_map`). Post-processed, if there are rules.
        probs: (C, *S) float32. Of overlapping classes, a voxel is in each with at least 0.5.
        entropy: (*S) float32, entropy of the mean probabilities in nats; summed over overlapping
            classes.
        disagreement: (*S) float32, at least 0: the entropy minus the mean of the members'
            entropies, in nats. Members are samples and models. This part of the uncertainty can
            become smaller with more members.
        steps: label map (*S) uint8 after each sampling step, post-processed in the same way; the
            last one is `label`.
        volume: the image file, which gives the grid.
        names: foreground name -> label value, or values of a region.
        half_state: whether the state of sampling was kept in float16; see
            `recycleseg.sampling.memory.state_dtype`.
    """

    label: Tensor
    probs: Tensor | None
    entropy: Tensor | None
    disagreement: Tensor | None
    steps: tuple[Tensor, ...]
    volume: Volume
    names: Labels | None = None
    half_state: bool = False

    def save(self, path: Path | str) -> None:
        """Write the label on the image's grid, in the format that the ending of `path` tells.

        A NIfTI file keeps the image's affines and their codes; a PNG keeps its pixel size. With
        .dcm, the label map of a DICOM series becomes a DICOM-SEG file.
        """
        write_like(path, self.label.numpy(), self.volume, self.names)


class Predictor:
    """Segments images of any size and spacing, with one trained run or the mean of several.

    A model that was trained without voxel sizes takes each image by its pixels, whatever size its
    file gives. A model that resamples to a spacing in mm refuses an image of unknown size.

    Memory: one volume on the prepared grid for each model's probabilities, and one more for the
    state while a model samples, in float16 where they are large (see
    `recycleseg.sampling.memory.state_dtype`). The way back to the file's grid goes slab by slab.

    Args:
        models: one or more.

    Raises:
        ValueError: two models have different classes, channels or rules of post-processing; the
            message names both.
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
            device: a name as for `runtime.device`; it may differ from that of the training.
            options: values that replace the run's own: fields of
                `recycleseg.run.options.SamplingConfig`, and `seed`, `overlap` (of windows) and
                `postprocess` (a PostprocessConfig).

        Raises:
            ValueError: a file is missing or invalid, an option is unknown or out of its range, or
                the device does not exist; the message names it.
        """
        return cls.load_many([run], device=device, **options)

    @classmethod
    def load_many(
        cls, runs: Sequence[Path | str], *, device: str = "auto", **options: Any
    ) -> Predictor:
        """Load several runs, whose probabilities are averaged; see `load`.

        Their spacing, windows, strategy and steps may differ. Their classes and channels must be
        the same.
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
            case_id: decides the noise, together with the seed; None takes the file's name without
                ending and channel number.
            return_probs: whether to give the probabilities on the file's grid.
            return_uncertainty: whether to give entropy and disagreement.
            return_steps: whether to give the label map after every sampling step; for one model
                only.
            progress: called with the work done and the whole work.

        Raises:
            FileError: a file cannot be read, or the files do not fit the models.
            ValueError: `return_steps` with several models.
        """
        number = len(self.models)
        if return_steps and number > 1:
            raise ValueError(f"return_steps: expected one model, got {number}")
        paths = [Path(p) for p in ([images] if isinstance(images, (str, Path)) else images)]
        volumes = read_image(paths, len(self.models[0].plan.channel_names))
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
            names=self.models[0].plan.classes.foreground,
            half_state=any(
                model.sampler.state_dtype(result.case.image.shape[1:], model.device)
                == torch.float16
                for model, result in zip(self.models, results, strict=True)
            ),
        )

    def _cleaned(self, label: Tensor) -> Tensor:
        return cleaned(label, self.postprocess, self.models[0].plan.classes)


def case_id_of(paths: Sequence[Path]) -> str:
    """The name of a case: the name of its first image without ending and channel number.

    If there is one image, only _0000 is a channel number: CASE_0001 is then the name of a case.

    Args:
        paths: the images of the case, one per channel.
    """
    name = case_name(paths[0])
    case_id, channel = case_and_channel(name)
    return case_id if channel == 0 or len(paths) > 1 else name


def _check_same_task(first: Model, other: Model) -> None:
    tasks = [
        {
            "channel_names": model.plan.channel_names,
            "classes": replace(model.plan.classes, ignore_label=None).labels,
            "regions_class_order": model.plan.classes.regions_class_order,
            "spatial_dims": model.plan.spatial_dims,
        }
        for model in (first, other)
    ]
    for name, expected in tasks[0].items():
        if (got := tasks[1][name]) != expected:
            raise ValueError(
                f"{other.name}: expected {name} {expected} as in {first.name}, got {got}"
            )
    if first.config.postprocess != other.config.postprocess:
        raise ValueError(
            f"{other.name}: expected {first.config.postprocess} as in {first.name}, got "
            f"{other.config.postprocess}; choose one with the option postprocess"
        )
