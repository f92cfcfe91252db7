"""Sampling volumes of any size by windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recycleseg.data.geometry import Orientation
from recycleseg.data.patches import PatchSampler
from recycleseg.data.preprocess import PreparedCase
from recycleseg.diffusion.gaussian import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.inference.volume import VolumeSampler, pad_to


def brightness_network(
    image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
) -> Tensor:
    """Class 1 where the image is bright, whatever the mask: logits of one voxel only."""
    image = image[:, :1]
    return torch.cat([-4.0 * image, 4.0 * image], dim=1)


def mask_network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
    """Says what it is shown, so that the starting noise can be seen in the output."""
    return 8.0 * image[:, 1:]


def make_sampler(**options: object) -> VolumeSampler:
    diffusion = GaussianDiffusion(NoiseSchedule("linear", 1001).respace(5))
    defaults: dict[str, object] = {
        "network": brightness_network,
        "diffusion": diffusion,
        "num_classes": 2,
        "exclusive": True,
        "patch_size": (8, 6),
    }
    return VolumeSampler(**{**defaults, **options})  # type: ignore[arg-type]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("shape", [(8, 6), (5, 4), (3, 20), (19, 23), (1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_every_size_gives_every_step_of_every_voxel(shape: tuple[int, ...], overlap: float) -> None:
    image = torch.randn(1, *shape, generator=generator())
    probs = make_sampler(overlap=overlap)(image, generator())
    assert probs.shape == (5, 2, *shape)
    # a voxel-wise network gives the same in every window, so their weighted mean is exact
    expected = brightness_network(image[None]).softmax(1)[0]
    for step in probs:
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)


def test_supervised_network_has_one_step() -> None:
    image = torch.randn(1, 9, 9, generator=generator())
    probs = make_sampler(diffusion=None)(image, generator())
    assert probs.shape == (1, 2, 9, 9)
    overlapping = make_sampler(diffusion=None, exclusive=False)(image, generator())
    expected = brightness_network(image[None]).sigmoid()[0]
    torch.testing.assert_close(overlapping[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"sampler": "ddpm"}], ids=str)
def test_noise_of_a_window_does_not_depend_on_the_batch(
    options: dict[str, object], device: str
) -> None:
    image = torch.zeros(1, 17, 13, device=device)
    diffusion = GaussianDiffusion(NoiseSchedule("linear", 1001).respace(5)).to(device)

    def probs(window_batch: int) -> Tensor:
        sampler = make_sampler(
            network=mask_network, diffusion=diffusion, window_batch=window_batch, **options
        )
        return sampler(image, torch.Generator(device).manual_seed(3))

    expected = probs(2)
    assert expected[:, 0].std() > 0.1  # the noise is seen
    for window_batch in (1, 3, 100):
        # the noise is the same; exp rounds otherwise in a vector than at the end of a chunk
        torch.testing.assert_close(probs(window_batch), expected, rtol=1e-6, atol=1e-6)


def test_a_compiled_network_sees_batches_of_one_size() -> None:
    sizes = []

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        sizes.append(len(image))
        return mask_network(image)

    image = torch.zeros(1, 17, 13)
    for options in ({}, {"eta": 1.0}, {"sampler": "ddpm"}):
        expected = make_sampler(network=mask_network, **options)(image, generator())
        for window_batch in (1, 5, 20):  # of 16 windows
            sizes.clear()
            sampler = make_sampler(
                network=network, window_batch=window_batch, compiled=True, **options
            )
            torch.testing.assert_close(sampler(image, generator()), expected, rtol=1e-6, atol=1e-6)
            assert set(sizes) == {window_batch}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_cuda_graph_gives_what_eager_gives() -> None:
    diffusion = GaussianDiffusion(NoiseSchedule("linear", 1001).respace(5)).to("cuda")

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        assert t is not None
        return mask_network(image) * weight - t.view(-1, 1, 1, 1)

    weight = torch.ones((), device="cuda")
    options = {"network": network, "diffusion": diffusion, "window_batch": 4}
    graphed, eager = make_sampler(compiled=True, **options), make_sampler(**options)
    for seed in (0, 1):
        image = torch.randn(1, 17, 13, device="cuda")
        weight.fill_(1.0 + seed)  # read where it lies
        results = [
            sampler(image, torch.Generator("cuda").manual_seed(seed))
            for sampler in (graphed, eager)
        ]
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_every_window_has_noise_of_its_own() -> None:
    """Without overlap, two windows of an empty image differ in nothing but their noise."""
    sampler = make_sampler(network=mask_network, overlap=0.0)
    probs = sampler(torch.zeros(1, 16, 6), generator())
    assert not torch.equal(probs[:, :, :8], probs[:, :, 8:])


def test_noise_follows_the_generator() -> None:
    image = torch.zeros(1, 8, 6)
    sampler = make_sampler(network=mask_network)
    first, again = sampler(image, generator()), sampler(image, generator())
    other = sampler(image, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_padding_is_that_of_training_patches() -> None:
    image = torch.arange(1.0, 16.0).reshape(1, 3, 5)
    case = PreparedCase(
        case_id="small",
        image=image,
        label=torch.zeros(3, 5, dtype=torch.uint8),
        spacing=(1.0, 1.0),
        native_shape=(3, 5),
        native_spacing=(1.0, 1.0),
        orientation=Orientation.of(None, 2),
        label_path=None,
        regions=None,
    )
    patch, _ = PatchSampler([case], (8, 6), 1).batch(0)
    padded, first = pad_to(image, (8, 6))
    assert torch.equal(padded, patch[0])
    assert torch.equal(padded[:, first[0] : first[0] + 3, first[1] : first[1] + 5], image)
    assert pad_to(image, (2, 2))[0].shape == image.shape
