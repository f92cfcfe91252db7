"""One case from its samples: as many trajectories as asked for, each with noise of its own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from recycleseg.ops.ensemble_vote import EnsembleVote, ensemble_vote
from recycleseg.progress import Progress, part_of
from recycleseg.sampling.volume import VolumeSampler

# Called with the index of a sampling step and the probabilities (C, *S) after it, which the next
# step may overwrite.
OnStep = Callable[[int, Tensor], None]


def case_generator(
    seed: int, case_id: str, sample: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of all noise of one sample of a case, which depends on nothing else."""
    own = zlib.crc32(case_id.encode()) ^ (seed & 0xFFFFFFFF)
    if sample > 0:
        # 32 bits, for PyTorch's generator of the CPU reads no more.
        own = int(np.random.SeedSequence([own, sample]).generate_state(1)[0])
    return torch.Generator(device).manual_seed(own)


def sample_case(
    sampler: VolumeSampler,
    image: Tensor,
    case_id: str,
    *,
    seed: int,
    samples: int = 1,
    on_step: OnStep | None = None,
    uncertainty: bool = False,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Mean probabilities (C, *S) of the samples, and what the samples disagree about.

    Args:
        sampler: what gives one sample.
        image: (C_img, *S) float32 on the network's device.
        case_id: with the seed and the number of the sample it decides the noise.
        seed: of the run.
        samples: how many; of a supervised network one.
        on_step: called for every sampling step; of several samples it gets the mean at that step,
            for which the probabilities of all steps are held.
        uncertainty: whether the disagreement is wanted.
        progress: called with the windows done and all that there are to do.

    Returns:
        The probabilities, and the mutual information in nats (see `ensemble_vote`): (1, *S), of
        overlapping classes (C, *S); None where it is not wanted or there is one sample.
    """
    means: list[Tensor] = []
    if samples > 1 and sampler.diffusion is None:
        samples = 1  # without noise all are the same

    def members() -> Iterator[Tensor]:
        for k in range(samples):
            generator = case_generator(seed, case_id, k, image.device)
            tell = part_of(progress, k, samples)
            if on_step is None:
                yield sampler(image, generator, tell)[None]
                continue
            for step, probs in enumerate(sampler.steps(image, generator, tell)):
                if samples == 1:
                    on_step(step, probs)
                elif k == 0:
                    means.append(probs.clone())
                else:
                    means[step].lerp_(probs, 1 / (k + 1))
            yield probs[None]

    if samples == 1:
        return next(members())[0], None
    vote = ensemble_vote(
        members(),
        exclusive=sampler.exclusive,
        return_probs=True,
        return_mutual_information=uncertainty,
    )
    assert isinstance(vote, EnsembleVote) and vote.probs is not None
    if on_step is not None:
        for step, probs in enumerate([*means[:-1], vote.probs[0]]):
            on_step(step, probs)
    mutual = vote.mutual_information
    if mutual is not None:
        mutual = mutual if sampler.exclusive else mutual[0]
    return vote.probs[0], mutual
