"""MONAI's diffusion model of masks, as near in size as its options come."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from step_cases import NUM_CLASSES, Case
from torch import Tensor


def why_not(precision: str) -> str | None:
    """What is missing to run MONAI's network."""
    if importlib.util.find_spec("einops") is None:
        return "MONAI's attention needs einops"
    if precision == "bf16" and not torch.cuda.is_available():
        return "autocast is for a GPU"
    return None


class MonaiWorkload:
    """One case computed by MONAI, trained by standard diffusion to predict the noise.

    The network has our levels, channels, residual blocks and, at the bottom alone, attention of
    eight heads. It joins skips by concatenation, so has 15 (B) to 21 % (A) more parameters,
    normalises by groups and has no dropout. As in MONAI's tutorials the loss is the mean square
    error, the optimiser Adam, and the image is concatenated to the noisy mask.

    precision: "float32", or "bf16" by autocast.
    """

    def __init__(self, case: Case, precision: str = "float32") -> None:
        from monai.inferers import DiffusionInferer
        from monai.networks.nets import DiffusionModelUNet
        from monai.networks.schedulers import DDIMScheduler

        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = precision == "bf16"
        self.network = DiffusionModelUNet(
            spatial_dims=len(case.shape),
            in_channels=1 + NUM_CLASSES,
            out_channels=NUM_CLASSES,
            channels=case.channels,
            attention_levels=(False,) * len(case.channels),  # the bottom has it in any case
            num_res_blocks=2,
            num_head_channels=case.channels[-1] // 8,
            norm_num_groups=min(32, *case.channels),
        ).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=2.5e-5)
        self.scheduler = DDIMScheduler(num_train_timesteps=1000)
        self.scheduler.set_timesteps(5)
        self.infer = DiffusionInferer(self.scheduler)
        self.image = torch.randn((case.batch, 1, *case.shape), device=self.device)
        self.label = torch.randint(NUM_CLASSES, (case.batch, *case.shape), device=self.device)

    def train(self) -> None:
        """One optimiser step, from noise to updated weights."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        mask = F.one_hot(self.label, NUM_CLASSES).movedim(-1, 1).float() * 2 - 1
        noise = torch.randn_like(mask)
        t = torch.randint(self.scheduler.num_train_timesteps, (len(mask),), device=self.device)
        with self._autocast():
            predicted = self.infer(
                mask, self.network, noise, t, condition=self.image, mode="concat"
            )
            loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def sample(self) -> Tensor:
        """Five DDIM steps."""
        self.network.eval()
        shape = (len(self.image), NUM_CLASSES, *self.image.shape[2:])
        noise = torch.randn(shape, device=self.device)
        with self._autocast():
            mask: Tensor = self.infer.sample(
                noise,
                self.network,
                self.scheduler,
                conditioning=self.image,
                mode="concat",
                verbose=False,
            )
        return ((mask.float() + 1) / 2).clamp(0, 1).cpu()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
