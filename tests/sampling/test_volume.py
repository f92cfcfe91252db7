"""Sampling volumes of any size by windows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recycleseg.classes import Classes
from recycleseg.data.patches import PatchSampler, TrainingCase
from recycleseg.data.positions import find_positions
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.models.unet import UNet
from recycleseg.sampling import memory
from recycleseg.sampling.volume import VolumeSampler, normal_noise, pad_to, spawn
from recycleseg.sampling.windows import WindowGrid


def brightness_network(
    image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
) -> Tensor:
    """Class 1 where the image is bright, for any mask; each voxel is decided alone."""
    image = image[:, :1]
    return torch.cat([-4.0 * image, 4.0 * image], dim=1)


def mask_network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
    """Repeats its input mask, so that the output shows the starting noise."""
    return 8.0 * image[:, 1:]


def diffusion_of(steps: int = 5) -> GaussianDiffusion:
    return GaussianDiffusion(NoiseSchedule("linear", 1001).respace(steps))


def make_sampler(**options: object) -> VolumeSampler:
    defaults: dict[str, object] = {
        "network": brightness_network,
        "diffusion": diffusion_of(),
        "num_classes": 2,
        "exclusive": True,
        "patch_size": (8, 6),
    }
    return VolumeSampler(**{**defaults, **options})  # type: ignore[arg-type]


def all_steps(sampler: VolumeSampler, image: Tensor, generator: torch.Generator) -> Tensor:
    """The probabilities (K, C, *S) after each of K steps."""
    return torch.stack([probs.clone() for probs in sampler.steps(image, generator)])


FUSIONS = ["trajectory", "step"]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("shape", [(8, 6), (5, 4), (3, 20), (19, 23), (1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("steps", [1, 5])
def test_every_size_gives_every_step_of_every_voxel(
    steps: int, shape: tuple[int, ...], overlap: float, fusion: str
) -> None:
    image = torch.randn(1, *shape, generator=generator())
    sampler = make_sampler(overlap=overlap, fusion=fusion, diffusion=diffusion_of(steps))
    probs = all_steps(sampler, image, generator())
    assert probs.shape == (steps, 2, *shape)
    # The network works voxel by voxel, so all windows agree and their mean is exact.
    expected = brightness_network(image[None]).softmax(1)[0]
    for step in probs:
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(sampler(image, generator()), probs[-1])


def test_supervised_network_has_one_step() -> None:
    image = torch.randn(1, 9, 9, generator=generator())
    for fusion in FUSIONS:
        probs = all_steps(make_sampler(diffusion=None, fusion=fusion), image, generator())
        assert probs.shape == (1, 2, 9, 9)
    overlapping = make_sampler(diffusion=None, exclusive=False)(image, generator())
    expected = brightness_network(image[None]).sigmoid()[0]
    torch.testing.assert_close(overlapping, expected, rtol=1e-5, atol=1e-6)


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
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"sampler": "ddpm"}], ids=str)
def test_noise_of_a_window_does_not_depend_on_the_batch(
    options: dict[str, object], fusion: str, device: str
) -> None:
    image = torch.zeros(1, 17, 13, device=device)
    diffusion = diffusion_of().to(device)

    def probs(window_batch: int) -> Tensor:
        sampler = make_sampler(
            network=mask_network,
            diffusion=diffusion,
            window_batch=window_batch,
            fusion=fusion,
            **options,
        )
        return all_steps(sampler, image, torch.Generator(device).manual_seed(3))

    expected = probs(2)
    assert expected[:, 0].std() > 0.1  # the output shows the noise
    for window_batch in (1, 3, 100):
        # The noise is the same; exp rounds differently in a vector and at the end of a chunk.
        torch.testing.assert_close(probs(window_batch), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_compiled_network_sees_batches_of_one_size(fusion: str) -> None:
    sizes = []

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        sizes.append(len(image))
        return mask_network(image)

    image = torch.zeros(1, 17, 13)
    one_step = {"diffusion": diffusion_of(1)}
    for options in ({}, {"eta": 1.0}, {"sampler": "ddpm"}, one_step, {"diffusion": None}):
        options = {"fusion": fusion, **options}
        if options.get("diffusion", ...) is None:
            image = torch.zeros(3, 17, 13)  # mask_network takes its classes from channels 1 and 2
        expected = make_sampler(network=mask_network, **options)(image, generator())
        for window_batch in (1, 5, 20):  # there are 16 windows
            sizes.clear()
            sampler = make_sampler(
                network=network, window_batch=window_batch, compiled=True, **options
            )
            torch.testing.assert_close(sampler(image, generator()), expected, rtol=1e-6, atol=1e-6)
            assert set(sizes) == {window_batch}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("steps", [1, 5])
def test_a_cuda_graph_gives_what_eager_gives(steps: int, fusion: str) -> None:
    diffusion = diffusion_of(steps).to("cuda")

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        assert t is not None
        return mask_network(image) * weight - t.view(-1, 1, 1, 1)

    weight = torch.ones((), device="cuda")
    options = {"network": network, "diffusion": diffusion, "window_batch": 4, "fusion": fusion}
    graphed, eager = make_sampler(compiled=True, **options), make_sampler(**options)
    for seed in (0, 1):
        image = torch.randn(1, 17, 13, device="cuda")
        weight.fill_(1.0 + seed)  # the graph must read the new value
        results = [
            sampler(image, torch.Generator("cuda").manual_seed(seed))
            for sampler in (graphed, eager)
        ]
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_every_window_has_noise_of_its_own() -> None:
    """Without overlap, two windows of an empty image differ only in their noise."""
    sampler = make_sampler(network=mask_network, overlap=0.0)
    probs = all_steps(sampler, torch.zeros(1, 16, 6), generator())
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
    label, classes = torch.zeros(3, 5, dtype=torch.uint8), Classes(("background", "a"))
    case = TrainingCase("small", image, label, classes, find_positions(label, classes, 2))
    patch, _ = PatchSampler([case], (8, 6), 1).batch(0)
    padded, first = pad_to(image, (8, 6))
    assert torch.equal(padded, patch[0])
    assert torch.equal(padded[:, first[0] : first[0] + 3, first[1] : first[1] + 5], image)
    assert pad_to(image, (2, 2))[0].shape == image.shape


NETWORKS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "ddim": ({}, {}),
    "eta": ({}, {"eta": 0.5}),
    "ddpm": ({}, {"sampler": "ddpm"}),
    "learned": ({"variance_type": "learned_range"}, {"sampler": "ddpm"}),
    "noise": ({"prediction_type": "noise"}, {}),
    "overlapping": ({"exclusive": False}, {"exclusive": False}),
    "self_conditioning": ({}, {"self_conditioning": True}),
}


def unet_sampler(name: str, shape: tuple[int, ...], **options: object) -> VolumeSampler:
    """A sampler with a random network of this kind and windows of this shape."""
    of_diffusion, of_sampler = NETWORKS[name]
    schedule = NoiseSchedule("linear", 1001).respace(3)
    diffusion = GaussianDiffusion(schedule, **of_diffusion)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = UNet(
        len(shape),
        1,
        4 if diffusion.learns_variance else 2,
        (8, 8),
        mask_channels=4 if name == "self_conditioning" else 2,
        num_heads=2,
    ).eval()
    for parameter in network.parameters():  # otherwise the last layer ignores its input
        torch.nn.init.normal_(parameter, std=0.3)
    return make_sampler(
        network=network, diffusion=diffusion, patch_size=shape, **of_sampler, **options
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(12, 10), (8, 6, 10)], ids=str)
def test_fusions_are_one_where_there_is_one_window(name: str, shape: tuple[int, ...]) -> None:
    image = torch.randn(1, *shape, generator=generator())
    of_fusion = [
        all_steps(unet_sampler(name, shape, fusion=fusion), image, generator())
        for fusion in FUSIONS
    ]
    assert of_fusion[0].isfinite().all() and of_fusion[0].std() > 0.01
    if name == "learned":  # its steps use another memory layout, so exp rounds differently
        torch.testing.assert_close(*of_fusion, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(*of_fusion)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shared_state_is_updated_slab_by_slab(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of slabs does not change the result, also for several windows."""
    image = torch.randn(1, 17, 9, generator=generator())
    sampler = unet_sampler(name, (8, 6), fusion="step")
    expected = all_steps(sampler, image, generator())
    monkeypatch.setattr(memory, "SLAB_ELEMENTS", 50)
    # exp rounds differently in a vector and at the end of a chunk.
    torch.testing.assert_close(
        all_steps(sampler, image, generator()), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_in_float16_gives_the_same_segmentation(
    name: str, fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise is the same; the state and the probabilities are rounded between the steps."""
    image = torch.randn(1, 21, 17, generator=generator())
    sampler = unet_sampler(name, (8, 6), fusion=fusion)
    expected = all_steps(sampler, image, generator())
    monkeypatch.setattr(memory, "LARGEST_STATE", 0)
    rounded = all_steps(sampler, image, generator())
    assert rounded.dtype == torch.float16
    assert torch.equal(sampler(image, generator()), rounded[-1])
    difference = (rounded.float() - expected).abs()
    # Half a unit in the last place of float16 is 2.4e-4 below 1, and steps pass on what they get.
    # A network that predicts noise divides it by the small share of the mask in x_t.
    assert difference.mean() < 1e-4
    assert name == "noise" or difference.max() < 1e-3


@pytest.mark.parametrize("size", [1, 100, memory.SLAB_ELEMENTS, 2 * memory.SLAB_ELEMENTS + 5])
def test_noise_in_float16_is_that_of_float32(size: int) -> None:
    shape = (1, 1, size)
    noise = normal_noise(shape, generator(), torch.float16)
    assert torch.equal(noise, normal_noise(shape, generator(), torch.float32).half())


def test_windows_of_one_state_agree_where_they_overlap() -> None:
    """The network repeats its input: a shared state stays as it is, but different states blur."""
    image = torch.zeros(1, 12, 6)
    options = {"network": mask_network, "overlap": 0.5}
    shared = all_steps(make_sampler(fusion="step", **options), image, generator())
    alone = all_steps(make_sampler(fusion="trajectory", **options), image, generator())
    own = spawn(generator(), 1)[0]
    x_t = torch.randn(2, 12, 6, generator=own)
    first = (8 * (x_t.clamp(-1, 1) + 1) / 2).softmax(0)
    torch.testing.assert_close(shared[0], first, rtol=1e-5, atol=1e-6)
    assert alone[0].std() < 0.95 * shared[0].std()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_progress_ends_when_all_windows_are_done(fusion: str) -> None:
    told: list[tuple[int, int]] = []
    sampler = make_sampler(fusion=fusion, window_batch=3)
    sampler(torch.zeros(1, 17, 13), generator(), lambda done, total: told.append((done, total)))
    number = len(WindowGrid((17, 13), (8, 6), 0.5)) * (5 if fusion == "step" else 1)
    assert told[-1] == (number, number)
    assert {total for _, total in told} == {number}
    assert sorted(set(told)) == told
