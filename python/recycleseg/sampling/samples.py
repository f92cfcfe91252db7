"""Combine the samples of a case: several trajectories, each with different noise."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from recycleseg.ops.ensemble_vote import EnsembleVote, ensemble_vote
from recycleseg.progress import Progress, part_of
from recycleseg.sampling.volume import VolumeSampler

# Called with the index of a sampling step and the probabilities (C, *S) after it; the next step
# may overwrite them.
OnStep = Callable[[int, Tensor], None]


def case_generator(
    seed: int, case_id: str, sample: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of all noise of one sample of a case; it depends only on the arguments."""
    own = zlib.crc32(case_id.encode(errors="surrogatepass")) ^ (seed & 0xFFFFFFFF)
    if sample > 0:
        # 32 bits, because the CPU generator of PyTorch uses no more.
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
    """Mean probabilities of the samples of a case, and how much the samples disagree.

    Args:
        sampler: gives one sample.
        image: (C_img, *S) float32 on the device of the network.
        case_id, seed: decide the noise, together with the index of the sample.
        samples: how many; a supervised network always takes one.
        on_step: called for every sampling step, with the mean of all samples at this step. For
            several samples, the probabilities of all steps are held in memory.
        uncertainty: whether to compute the disagreement.
        progress: called with the number of windows done and of all windows.

    Returns:
        The probabilities (C, *S), of one sample as the sampler keeps them, else float32; and the
        mutual information in nats (see `ensemble_vote`): (1, *S), or (C, *S) for overlapping
        classes; None without `uncertainty` or for one sample.
    """
    means: list[Tensor] = []
    samples = samples if sampler.diffusion else min(samples, 1)  # all are equal without noise

    def members() -> Iterator[Tensor]:
        for k in range(samples):
            generator = case_generator(seed, case_id, k, image.device)
            part = part_of(progress, k, samples)
            if on_step is None:
                yield sampler(image, generator, part)[None]
                continue
            for step, probs in enumerate(sampler.steps(image, generator, part)):
                if samples == 1:
                    on_step(step, probs)
                elif k == 0:
                    means.append(probs.to(torch.float32, copy=True))
                else:
                    means[step].lerp_(probs.float(), 1 / (k + 1))
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
    return vote.probs[0], mutual if mutual is None or sampler.exclusive else mutual[0]
