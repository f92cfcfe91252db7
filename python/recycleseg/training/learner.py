"""One optimiser step of a training: batch, strategy, gradients, new weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from recycleseg.data.cache import PreparedDataset
from recycleseg.diffusion.strategies import StepResult, Supervised, make_draws
from recycleseg.models.layers import set_first_row
from recycleseg.processes import ALONE, Processes
from recycleseg.run import factory
from recycleseg.run.compiling import compiled, resolve_mode
from recycleseg.run.config import TrainConfig
from recycleseg.run.device import AutocastNetwork
from recycleseg.training.data import TrainingBatches
from recycleseg.training.gradients import GradientSum
from recycleseg.training.optim import (
    AveragedWeights,
    SkippedSteps,
    clip_and_step,
    learning_rate,
    make_optimizer,
)
from recycleseg.training.state import RunState


class Learner:
    """All that changes from step to step, and how.

    The batch, its augmentation, t, noise and dropout of a step depend only on the seed and the
    number of optimiser steps done. So a resumed run does the same as one that was not stopped.
    Several processes share each batch, and do the same steps on the same weights.

    Args:
        config: all options of the run.
        data: the preprocessed data set.
        patch_size: voxels along each axis.
        device: where the network computes.
        precision: of the network, "bf16" or "float32".
        processes: those of the run.

    Attributes:
        step: optimiser steps done.
        average: of the weights, if the run averages.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedDataset,
        patch_size: tuple[int, ...],
        device: torch.device,
        precision: str,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.device = device
        self._patch_size = patch_size
        self._processes = processes
        self.rows = processes.rows(config.optim.batch_size)
        self._classes = data.dataset.classes
        torch.manual_seed(config.seed)
        self.network = factory.make_network(config, data.plan).to(device)
        set_first_row(self.network, self.rows.first)
        self._gradients = GradientSum(self.network, processes)
        self.forward = AutocastNetwork(self.network, device, precision)
        diffusion = factory.make_diffusion(config, self._classes.exclusive).to(device)
        self.strategy = factory.make_strategy(config, diffusion, len(self._classes))
        self.loss_step = compiled(self.strategy, resolve_mode(config.compile, device))
        self.timesteps = factory.make_timesteps(config)
        self._generator = torch.Generator(device)
        self._batches = TrainingBatches(config, data, patch_size, device, self.rows)
        self.step = 0
        self.skipped = SkippedSteps(device)
        self.begin_with_these_weights()

    def begin_with_these_weights(self) -> None:
        """Make optimiser and average anew, for the network's present weights."""
        self.optimizer = make_optimizer(self.network, self.config.optim)
        decay = self.config.optim.ema_decay
        self.average = AveragedWeights(self.network, decay) if decay > 0 else None

    @property
    def state(self) -> RunState:
        """What a checkpoint holds."""
        return RunState(self.network, self.average, self.optimizer, self.timesteps)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network is in evaluation mode and has the averaged weights, if there are any."""
        self.network.eval()
        with self.average.applied_to(self.network) if self.average else nullcontext():
            yield

    def train_step(self) -> tuple[Tensor, Tensor]:
        """Do one optimiser step over `accumulation` batches.

        Returns:
            Mean loss and gradient norm, scalars on the device.
        """
        optim = self.config.optim
        self.network.train()
        mean_loss = torch.zeros((), device=self.device)
        for index in range(optim.accumulation):
            result = self.loss_of_batch(self.step * optim.accumulation + index)
            mean_loss += self._backward(result, index)
            if result.t_index is not None and self.timesteps.learns:
                losses, t_index = (
                    self._processes.of_batch(x, self.rows)
                    for x in (result.loss_per_sample, result.t_index)
                )
                self.timesteps.update(losses, t_index)
            del result  # frees the logits before the next batch
        self._processes.sum_in_place(mean_loss)
        norm = self._update(learning_rate(self.step, optim))
        self.skipped.add(mean_loss, norm)
        self.step += 1
        return mean_loss, norm

    def rehearse(self, index: int) -> None:
        """The work of a step, at a learning rate of zero; optimiser and average must be new then.

        Args:
            index: of the batch.
        """
        self.network.train()
        for n in range(self.config.optim.accumulation):
            self._backward(self.loss_of_batch(index), n)
        self._update(0.0)

    def loss_of_batch(self, index: int) -> StepResult:
        """Forward passes and loss of this process's rows of batch `index`.

        They depend only on seed, index and weights.
        """
        seeds = np.random.SeedSequence([self.config.seed, index]).generate_state(3).tolist()
        self._generator.manual_seed(seeds[0])
        torch.manual_seed(seeds[2])  # dropout
        image, label = self._batches(index, augment_seed=seeds[1])
        label, known = self._classes.split(label, dim=1)
        if isinstance(self.strategy, Supervised):
            return self.loss_step(self.forward, image, label, None, known)
        shape = (len(image), len(self._classes), *self._patch_size)
        draws = make_draws(self.strategy, self.timesteps, self._generator, shape, self.rows)
        return self.loss_step(self.forward, image, label, draws, known)

    def _backward(self, result: StepResult, index: int) -> Tensor:
        """Add the gradients of pass `index` of a step; this process's part of the mean loss."""
        accumulation = self.config.optim.accumulation
        loss = result.loss * (self.rows.share / accumulation)
        is_last = index == accumulation - 1
        with self._gradients.summed() if is_last else nullcontext():
            loss.backward()
        return loss.detach()

    def _update(self, lr: float) -> Tensor:
        """Move the weights by their gradients, and the average after them; the gradients' norm."""
        norm = clip_and_step(self.optimizer, lr, self.config.optim.grad_clip)
        if self.average is not None:
            self.average.update(self.network)
        return norm
