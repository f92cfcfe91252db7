"""A trained run as a function from image files to segmentations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recycleseg import factory
from recycleseg.checkpoint import load_checkpoint
from recycleseg.config import TrainConfig, load_config
from recycleseg.data.preprocess import Plan, preprocess_image, restore
from recycleseg.data.volumes import Volume, read_volume, write_volume


@dataclass(frozen=True)
class Prediction:
    """A segmentation on the grid of the image file.

    label: (*S) uint8, the data set's label values, also where classes overlap (see
    `paint_regions`). probs: (C, *S) float32; of overlapping classes a voxel belongs to each above
    one half. volume: the image file as read, whose grid this is.
    """

    label: Tensor
    probs: Tensor
    volume: Volume

    def save(self, path: Path | str) -> None:
        """Write the label with the image's affine or pixel size, in the format of the suffix."""
        write_volume(
            path, self.label.numpy(), spacing=self.volume.spacing, affine=self.volume.affine
        )


class Predictor:
    """Segments images of any size and spacing with the best weights of a run."""

    def __init__(
        self,
        config: TrainConfig,
        plan: Plan,
        patch_size: tuple[int, ...],
        weights: dict[str, Tensor],
    ) -> None:
        self.plan = plan
        self.seed = config.seed
        self.device = factory.use_device(config.runtime.device)
        precision = factory.choose_precision(config.runtime.precision, self.device)
        network = factory.make_network(config, plan).to(self.device)
        network.load_state_dict(weights)
        network.eval()
        forward = factory.AutocastNetwork(network, self.device, precision)
        self.sampler = factory.make_volume_sampler(config, forward, plan, patch_size, self.device)

    @classmethod
    def load(cls, run: Path | str, *, device: str = "auto") -> Predictor:
        """Load a run folder that `recycle-train` wrote, onto a device as `runtime.device` names it.

        The device need not be the one that the run was trained on. Raises ValueError naming the
        file that is missing or not as expected, or the device that is not there.
        """
        root = Path(run)
        config = load_config(root / "config.yaml")
        config = replace(config, runtime=replace(config.runtime, device=device))
        description = root / "dataset.json"
        if not description.is_file():
            raise ValueError(f"{description}: expected a run's data set description, found none")
        plan = json.loads(description.read_text())
        patch_size = tuple(plan.pop("patch_size"))
        checkpoint = load_checkpoint(root / "checkpoints" / "best.safetensors")
        weights = checkpoint.owned_by("average") or checkpoint.owned_by("network")
        return cls(config, Plan.from_dict(plan), patch_size, weights)

    def __call__(self, image: Path | str | Sequence[Path | str]) -> Prediction:
        """Segment one case: its image file, or one file per channel.

        Raises DatasetError when a file cannot be read or the files do not fit the run.
        """
        paths = [image] if isinstance(image, (str, Path)) else list(image)
        volumes = [read_volume(path) for path in paths]
        case = preprocess_image(volumes, self.plan, case_id=Path(paths[0]).name)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        probs = restore(self.sampler(case.image.to(self.device), generator)[-1].cpu(), case)
        if self.plan.regions is None:
            label = probs.argmax(0).to(torch.uint8)
        else:
            label = paint_regions(probs > 0.5, self.plan.regions)
        return Prediction(label, probs, volumes[0])


def paint_regions(masks: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Label map (*S) uint8 of overlapping masks (C, *S) bool, whose label values are `regions`.

    A voxel takes the label value that lies in just the regions that hold it, if there is one: then
    `region_masks` of the result gives the masks back. Elsewhere regions of more label values are
    painted first and the more specific ones over them, as nnU-Net does by its
    `regions_class_order`; each with its first label value that no region painted later holds, or
    with its first one if there is none.
    """
    order = sorted(range(len(regions)), key=lambda index: -len(regions[index]))
    label = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for position, index in enumerate(order):
        painted_later = {value for other in order[position + 1 :] for value in regions[other]}
        own = [value for value in regions[index] if value not in painted_later]
        label[masks[index]] = (own or regions[index])[0]
    for value in sorted({value for region in regions for value in region}):
        held = torch.tensor([value in region for region in regions])
        exact = (masks == held.reshape(-1, *[1] * (masks.ndim - 1))).all(0)
        label[exact] = value
    return label
