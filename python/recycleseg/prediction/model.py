"""A trained run as a model that segments preprocessed images."""

from __future__ import annotations

import reprlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from recycleseg.data.preprocess import Plan, PreparedCase
from recycleseg.files import FileError, read_json_object
from recycleseg.prediction.native import Prepared
from recycleseg.prediction.postprocess import check_postprocess
from recycleseg.progress import Progress
from recycleseg.run import factory
from recycleseg.run.checkpoint import check_tensors, load_checkpoint
from recycleseg.run.config import TrainConfig, load_config
from recycleseg.run.device import AutocastNetwork, choose_device, choose_precision, use_device
from recycleseg.run.folder import RunFolder
from recycleseg.run.options import PostprocessConfig, SamplingConfig
from recycleseg.run.ranges import PATCH_SIZE
from recycleseg.sampling.samples import OnStep, sample_case
from recycleseg.sampling.watch import NonFiniteError


class Model:
    """A network with its weights, and everything that its training fixed.

    Args:
        config: configuration of the run, with the wanted sampling options.
        plan: how images are preprocessed.
        patch_size: size in voxels of the windows that the network was trained on.
        weights: of the network.
        name: what messages call the model.
        source: what messages call the weights.

    Raises:
        FileError: the weights are those of another network.
    """

    def __init__(
        self,
        config: TrainConfig,
        plan: Plan,
        patch_size: tuple[int, ...],
        weights: dict[str, Tensor],
        name: str = "model",
        source: str = "weights",
    ) -> None:
        self.config = config
        self.plan = plan
        self.name = name
        self.source = source
        self.device = use_device(config.runtime.device)
        precision = choose_precision(config.runtime.precision, self.device)
        network = factory.make_network(config, plan).to(self.device)
        check_tensors(weights, network.state_dict(), source, "the weights of the network")
        network.load_state_dict(weights)
        network.eval()
        forward = AutocastNetwork(network, self.device, precision)
        self.sampler = factory.make_volume_sampler(config, forward, plan, patch_size, self.device)

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        device: str = "auto",
        seed: int | None = None,
        overlap: float | None = None,
        postprocess: PostprocessConfig | None = None,
        **sampling: Any,
    ) -> Model:
        """Load a run folder with its best weights; see `Predictor.load` for the arguments."""
        root = Path(run)
        folder = RunFolder(root)
        if not root.is_dir():
            raise FileError(f"{root}: expected a run folder, got no such folder")
        config = _with_options(load_config(folder.config), seed, overlap, sampling)
        config = replace(config, runtime=replace(config.runtime, device=device))
        choose_device(device)
        plan, patch_size = load_plan(folder.dataset)
        if postprocess is not None:
            check_postprocess(postprocess, tuple(plan.classes.foreground), plan.spatial_dims)
            config = replace(config, postprocess=postprocess)
        checkpoint = load_checkpoint(folder.best)
        return cls(config, plan, patch_size, checkpoint.weights, str(root), checkpoint.source)

    def __call__(
        self,
        case: PreparedCase,
        *,
        on_step: OnStep | None = None,
        uncertainty: bool = False,
        progress: Progress | None = None,
    ) -> Prepared:
        """Segment a case that this model's plan preprocessed; see `sample_case`.

        Raises:
            FileError: the network gives NaN or Inf for this case.
        """
        try:
            probs, disagreement = sample_case(
                self.sampler,
                case.image.to(self.device),
                case.case_id,
                seed=self.config.seed,
                samples=self.config.sampling.samples,
                on_step=on_step,
                uncertainty=uncertainty,
                progress=progress,
            )
        except NonFiniteError as error:
            raise FileError(f"{case.case_id}: {error}, with the weights {self.source}") from error
        return Prepared(case, probs, disagreement)


def _with_options(
    config: TrainConfig, seed: int | None, overlap: float | None, sampling: dict[str, Any]
) -> TrainConfig:
    known = [field.name for field in fields(SamplingConfig)]
    if unknown := [name for name in sampling if name not in known]:
        raise ValueError(f"sampling: expected options {', '.join(known)}, got {unknown[0]!r}")
    patch = config.patch if overlap is None else replace(config.patch, overlap=overlap)
    return replace(
        config,
        seed=config.seed if seed is None else seed,
        patch=patch,
        sampling=replace(config.sampling, **sampling),
    )


def load_plan(path: Path) -> tuple[Plan, tuple[int, ...]]:
    """Preprocessing plan and patch size from a run's dataset.json.

    Raises:
        FileError: the file is missing or something else.
    """
    values = read_json_object(path)
    expected = f"{path}: expected a run's data set description"
    try:
        plan, patch_size = Plan.from_dict(values), tuple(values["patch_size"])
    except KeyError as error:
        raise FileError(f"{expected}, got no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise FileError(f"{expected}, got: {error}") from error
    sizes = [size for size in patch_size if type(size) is int]
    if not len(sizes) == len(patch_size) == plan.spatial_dims:
        raise FileError(
            f"{expected}, got: expected a patch_size of {plan.spatial_dims} whole numbers, got "
            f"{reprlib.repr(list(patch_size))}"
        )
    if problem := PATCH_SIZE.problem(sizes):
        raise FileError(f"{expected}, got: patch_size: {problem}")
    return plan, patch_size
