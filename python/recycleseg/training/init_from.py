"""Fine-tuning: a run that starts from the weights of another run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from recycleseg.data.preprocess import Plan
from recycleseg.files import FileError, shortened
from recycleseg.models.unet import UNet
from recycleseg.prediction.model import load_plan
from recycleseg.run import factory
from recycleseg.run.checkpoint import check_tensors, load_checkpoint
from recycleseg.run.config import TrainConfig, load_config
from recycleseg.run.folder import RunFolder

# Options of the model that do not change what its weights mean.
_FREE = {"dropout", "checkpoint_activations"}
# If the spacing differs by more than this factor, the user is told.
_NEAR = 1.5
_STEM, _HEAD_WEIGHT, _HEAD_BIAS = "stem.conv.weight", "head.weight", "head.bias"


@dataclass(frozen=True)
class _Slot:
    """An input channel or an output of a network; two are equal if they mean the same.

    Attributes:
        text: for the user.
        meaning: kind, name, and what else tells slots apart.
    """

    text: str = field(compare=False)
    meaning: tuple[Hashable, ...]


@dataclass(frozen=True)
class _Side:
    """One of the two runs."""

    config: TrainConfig
    plan: Plan
    weights: Mapping[str, Tensor]


@torch.no_grad()
def start_from(run: Path, network: UNet, config: TrainConfig, plan: Plan) -> list[str]:
    """Give a network the best weights of another run, averaged if the run averages.

    Input channels and outputs are matched by the names of channels and classes. Those without a
    match keep the random weights of the network.

    Args:
        run: folder of the other run.
        network: of the new run, changed in place.
        config: of the new run.
        plan: of the new run.

    Returns:
        Lines for the user: what was kept, and whether the spacing differs much.

    Raises:
        ValueError: the network of the run is another one, or a file of the run is invalid
            (FileError).
    """
    if not run.is_dir():
        raise FileError(f"init_from: expected a run folder, got no folder {run}")
    folder = RunFolder(run)
    their_config, (their_plan, _) = load_config(folder.config), load_plan(folder.dataset)
    _check_same_network(run, config, plan, their_config, their_plan)
    checkpoint = load_checkpoint(folder.best)
    network_of_theirs = factory.make_network(their_config, their_plan)
    what = f"the weights of the network in {folder.config}"
    check_tensors(checkpoint.weights, network_of_theirs.state_dict(), checkpoint.source, what)
    ours = _Side(config, plan, network.state_dict())
    theirs = _Side(their_config, their_plan, checkpoint.weights)
    lone_channel = len(plan.channel_names) == len(their_plan.channel_names) == 1
    merged = dict(theirs.weights)
    inputs, their_inputs = (_inputs(side, lone_channel) for side in (ours, theirs))
    outputs, their_outputs = _outputs(ours), _outputs(theirs)
    merged[_STEM] = _matched(_STEM, ours, theirs, inputs, their_inputs)
    for name in (_HEAD_WEIGHT, _HEAD_BIAS):
        merged[name] = _matched(name, ours, theirs, outputs, their_outputs)
    network.load_state_dict(merged)
    known = {*their_inputs, *their_outputs}
    new = dict.fromkeys(slot.text for slot in (*inputs, *outputs) if slot not in known)
    line = f"weights of step {checkpoint.state['step']} of {run}: kept all"
    if new:
        line += f"; first and last layer start anew for {shortened(list(new), 8)}"
    return [line, *_spacing_lines(run, plan, their_plan)]


def _check_same_network(
    run: Path, config: TrainConfig, plan: Plan, their_config: TrainConfig, their_plan: Plan
) -> None:
    if plan.spatial_dims != their_plan.spatial_dims:
        raise ValueError(
            f"init_from: expected a run on {plan.spatial_dims}D images, got {run} on "
            f"{their_plan.spatial_dims}D images"
        )
    if "supervised" in (config.strategy, their_config.strategy):
        if config.strategy != their_config.strategy:
            raise ValueError(
                f"strategy: expected {their_config.strategy} as in {run}, because a supervised "
                f"network has no layers for t, got {config.strategy}"
            )
    for option in fields(config.model):
        now, then = (getattr(c.model, option.name) for c in (config, their_config))
        if option.name not in _FREE and now != then:
            raise ValueError(
                f"model.{option.name}: expected {then} as in {run}, from which this run starts, "
                f"got {now}"
            )


def _inputs(side: _Side, lone_channel: bool) -> list[_Slot]:
    """The input channels of the network, in order.

    Args:
        side: the run.
        lone_channel: whether both runs have one image channel, which is then the same.
    """
    channels, classes = side.plan.channel_names, side.plan.classes.names
    copies = (side.weights[_STEM].shape[1] - len(channels)) // len(classes)
    slots = []
    for index, name in enumerate(channels):
        known_as = "" if lone_channel else name.casefold()
        slots.append(_Slot(f"channel {name}", ("image", known_as, channels[:index].count(name))))
    for copy in range(copies):
        slots += [_Slot(f"class {name}", ("mask", name.casefold(), copy)) for name in classes]
    return slots


def _outputs(side: _Side) -> list[_Slot]:
    """The outputs of the network, in order."""
    classes, diffusion = side.plan.classes, side.config.diffusion
    meanings = ((diffusion.prediction_type, classes.exclusive), (diffusion.variance_type,))
    copies = side.weights[_HEAD_WEIGHT].shape[0] // len(classes)
    return [
        _Slot(f"class {name}", ("output", name.casefold(), *meaning))
        for meaning in meanings[:copies]
        for name in classes.names
    ]


def _matched(
    name: str, ours: _Side, theirs: _Side, slots: list[_Slot], their_slots: list[_Slot]
) -> Tensor:
    """Our tensor with theirs at every slot that they have too."""
    dim = 1 if name == _STEM else 0
    matched = ours.weights[name].clone()
    for index, slot in enumerate(slots):
        if slot in their_slots:
            of_theirs = theirs.weights[name].select(dim, their_slots.index(slot))
            matched.select(dim, index).copy_(of_theirs)
    return matched


def _spacing_lines(run: Path, plan: Plan, their_plan: Plan) -> list[str]:
    if plan.spacing is None or their_plan.spacing is None:
        return []
    ratios = [now / then for now, then in zip(plan.spacing, their_plan.spacing, strict=True)]
    if max(max(ratio, 1 / ratio) for ratio in ratios) <= _NEAR:
        return []
    now, then = (
        " x ".join(f"{size:g}" for size in spacing)
        for spacing in (plan.spacing, their_plan.spacing)
    )
    return [
        f"the spacing is {now}, in {run} it was {then}: the network knows structures of another "
        "size in voxels, so it may gain less from those weights"
    ]
