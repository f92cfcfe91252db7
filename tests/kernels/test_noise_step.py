"""noise_step's kernel against its reference: interpreted on a CPU, for real on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recycleseg.ops.noise_step import NoiseStep, noise_step
from recycleseg.ops.philox import philox_normal, philox_words

CLASSES = [1, 2, 3, 4, 5, 16, 33, 64]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Several programs a sample and a rest; with many classes a program has 32 voxels.
SHAPES = {False: [(2, 3, 5, 7), (1, 1, 1), (2, 23, 29)], True: [(2, 2, 3, 7), (1, 1, 1)]}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def contiguous(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def scales(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    scale_start = torch.linspace(0.3, 0.9, batch, device=device)
    return scale_start, (1 - scale_start.square()).sqrt()


def random_source(source_type: str, shape: tuple[int, ...], num_classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    batch, *spatial = shape
    if source_type == "label":
        return torch.randint(num_classes, shape, generator=generator)
    logits = 3 * torch.randn((batch, num_classes, *spatial), generator=generator)
    return logits.sigmoid() if source_type == "probs" else logits


def both(num_classes: int, source: Tensor, network_input: Tensor, **kwargs: Any) -> list[NoiseStep]:
    """What the kernel and the reference give, each with its own copy of network_input."""
    results = []
    for backend in ("auto", "reference"):
        mine = torch.empty_like(network_input).copy_(network_input)
        results.append(
            noise_step(
                source,
                *scales(len(source), source.device),
                num_classes=num_classes,
                network_input=mine,
                first_channel=1,
                return_x=True,
                backend=backend,
                **kwargs,
            )
        )
        assert results[-1].network_input is mine
    return results


def assert_equal(results: list[NoiseStep], num_classes: int, tolerance: float) -> None:
    """Equal to rounding; the channels beside those of the mask hold the NaN that was there."""
    ours, reference = results
    assert ours.x_t is not None and reference.x_t is not None
    assert ours.x_t.isfinite().all()
    torch.testing.assert_close(ours.x_t, reference.x_t, rtol=tolerance, atol=tolerance)
    half = torch.finfo(ours.network_input.dtype).eps
    torch.testing.assert_close(
        ours.network_input[:, 1 : num_classes + 1].float(),
        reference.network_input[:, 1 : num_classes + 1].float(),
        rtol=0,
        atol=max(half, tolerance),
    )
    assert ours.network_input[:, [0, -1]].isnan().all()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_classes", CLASSES)
def test_equals_the_reference(
    num_classes: int,
    dtype: torch.dtype,
    layout: Callable[[Tensor], Tensor],
    fuse: Callable[[str], None],
    device: torch.device,
    tolerance: float,
) -> None:
    fuse("noise_step")
    for shape in SHAPES[num_classes > 5]:
        batch, *spatial = shape
        network_input = torch.full((batch, num_classes + 2, *spatial), torch.nan, dtype=dtype)
        network_input = layout(network_input).to(device)
        for source_type, exclusive in (("logits", True), ("logits", False), ("label", True)):
            source = random_source(source_type, shape, num_classes)
            if source_type == "logits":
                source = layout(source.to(dtype))
            results = both(
                num_classes,
                source.to(device),
                network_input,
                source_type=source_type,
                exclusive=exclusive,
                seed=-7,
                offset=2**40 + 1,
                first_row=3,
            )
            assert_equal(results, num_classes, tolerance)
            x_t = results[0].x_t
            assert x_t is not None
            assert layout(x_t).stride() == x_t.stride()


@pytest.mark.parametrize("num_classes", [1, 3, 5])
def test_given_noise_and_probabilities_of_any_layout(
    num_classes: int, fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    fuse("noise_step")
    generator = torch.Generator().manual_seed(1)
    big = torch.rand((3, 2 * num_classes, 6, 5, 4), generator=generator).to(device)
    noise = torch.randn((3, num_classes, 6, 5, 4), generator=generator).to(device)
    network_input = big.new_full((3, num_classes + 2, 6, 5, 4), torch.nan)
    for source, given in (
        (big[:, num_classes:], channels_last(noise).bfloat16()),
        (channels_last(big)[:, :num_classes], noise.half()),
        (big[:, :num_classes].transpose(2, 4).contiguous().transpose(2, 4), noise.double()),
        (big[:, ::2], noise[..., :1].expand_as(noise)),
        (big.transpose(0, 1)[:num_classes].transpose(0, 1), noise.flip(-1).mT.contiguous().mT),
    ):
        results = both(num_classes, source, network_input, source_type="probs", noise=given)
        assert_equal(results, num_classes, tolerance)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_of_every_dtype_and_out_of_range(
    dtype: torch.dtype, fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    fuse("noise_step")
    label = torch.tensor([[0, 1, 2, 3, 255], [2, 2, 0, 1, 1]], dtype=dtype, device=device)
    network_input = torch.full((2, 5, 5), torch.nan, device=device)
    results = both(3, label, network_input, source_type="label", seed=0)
    assert_equal(results, 3, tolerance)
    noiseless = noise_step(
        label[:, ::2],
        torch.ones(2, device=device),
        torch.zeros(2, device=device),
        source_type="label",
        num_classes=3,
        seed=0,
    )
    expected = [[[1, 0, 0], [0, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]]
    assert noiseless.network_input.tolist() == expected
    assert noiseless.x_t is None


def test_writes_through_a_view_and_draws_by_logical_position(
    fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    fuse("noise_step")
    for layout in (contiguous, channels_last):
        whole = layout(torch.full((2, 9, 4, 3, 2), torch.nan)).to(device)
        source = torch.zeros(2, 4, 3, 2, dtype=torch.uint8, device=device)
        zero, half = torch.zeros(2, device=device), torch.full((2,), 0.1, device=device)
        step = noise_step(
            source,
            zero,
            half,
            source_type="label",
            num_classes=5,
            seed=1,
            offset=2,
            network_input=whole[:, 2:8],
            first_channel=1,
        )
        expected = 0.05 * philox_normal((2, 5, 4, 3, 2), 1, 2, device) + 0.5
        torch.testing.assert_close(whole[:, 3:8], expected, rtol=0, atol=tolerance)
        assert step.network_input.data_ptr() == whole[:, 2:8].data_ptr()
        assert whole[:, [0, 1, 2, 8]].isnan().all()


def test_nan_is_not_hidden(fuse: Callable[[str], None], device: torch.device) -> None:
    fuse("noise_step")
    logits = torch.zeros(1, 3, 4, device=device)
    logits[0, 1, 2] = torch.nan
    step = noise_step(
        logits, *scales(1, device), source_type="logits", num_classes=3, seed=0, return_x=True
    )
    assert step.x_t is not None
    for result in step:
        assert result[0, :, 2].isnan().all()
        assert result[0, :, [0, 1, 3]].isfinite().all()


def test_nothing_to_do(fuse: Callable[[str], None], device: torch.device) -> None:
    fuse("noise_step")
    for shape in ((0, 3, 4), (2, 3, 0)):
        logits = torch.zeros(shape, device=device)
        step = noise_step(
            logits, *scales(shape[0], device), source_type="logits", num_classes=3, seed=0
        )
        assert step.network_input.shape == shape


def test_output_that_does_not_collapse_is_named(
    fuse: Callable[[str], None], device: torch.device
) -> None:
    fuse("noise_step")
    logits = torch.zeros(1, 3, 4, 6, device=device)
    for network_input in (torch.zeros(1, 3, 6, 4).mT, torch.zeros(1, 3, 1, 1).expand(1, 3, 4, 6)):
        with pytest.raises(ValueError, match="network_input: expected spatial axes that collapse"):
            noise_step(
                logits,
                *scales(1, device),
                source_type="logits",
                num_classes=3,
                seed=0,
                network_input=network_input.to(device),
            )


@pytest.mark.parametrize("source_type", ["logits", "label"])
def test_is_a_well_formed_operator(
    source_type: str, opcheck: Callable[..., None], device: torch.device
) -> None:
    from recycleseg.kernels.noise_step import noise_step_op

    source = random_source(source_type, (2, 4, 5), 3).to(device)
    if source_type == "label":
        source = source.unsqueeze(1)
    seed, offset = torch.tensor(1, device=device), torch.tensor(2, device=device)
    network_input, x_t = torch.zeros(2, 4, 4, 5).to(device), torch.zeros(2, 3, 4, 5).to(device)
    arguments = source, *scales(2, device), None, seed, offset, 3, network_input, x_t
    opcheck(noise_step_op, (*arguments, source_type, 3, True, 1))


@pytest.mark.gpu
@needs_gpu
def test_compiled_full_graph_equals_eager() -> None:
    def step(logits: Tensor, network_input: Tensor, seed: Tensor, offset: Tensor) -> Tensor:
        result = noise_step(
            2 * logits,
            *scales(2, logits.device),
            source_type="logits",
            num_classes=3,
            seed=seed,
            offset=offset + 1,
            network_input=network_input,
            first_channel=1,
            return_x=True,
        )
        assert result.x_t is not None
        return result.x_t + result.network_input[:, 1:]

    logits = random_source("logits", (2, 33, 31), 3).cuda().bfloat16()
    seed, offset = torch.tensor(1).cuda(), torch.tensor(2).cuda()
    buffers = [torch.ones(2, 4, 33, 31, device="cuda") for _ in range(2)]
    eager = step(logits, buffers[0], seed, offset)
    compiled = torch.compile(step, fullgraph=True)(logits, buffers[1], seed, offset)
    torch.testing.assert_close(compiled, eager, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(buffers[1], buffers[0], rtol=2e-5, atol=2e-5)


@pytest.mark.gpu
@needs_gpu
def test_a_replayed_cuda_graph_draws_fresh_noise() -> None:
    device = torch.device("cuda")
    label = torch.zeros(2, 16, 16, dtype=torch.uint8, device=device)
    network_input = torch.empty(2, 3, 16, 16, device=device)
    offset = torch.zeros((), dtype=torch.int64, device=device)
    zero, one = torch.zeros(2, device=device), torch.ones(2, device=device)

    def step() -> Tensor:
        result = noise_step(
            label,
            zero,
            one,
            source_type="label",
            num_classes=3,
            seed=5,
            offset=offset,
            network_input=network_input,
            return_x=True,
        )
        assert result.x_t is not None
        offset.add_(1)
        return result.x_t

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x_t = step()
    for n in (1, 2, 3):
        offset.fill_(n)
        graph.replay()
        expected = philox_normal((2, 3, 16, 16), 5, n, device)
        torch.testing.assert_close(x_t, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.gpu
@needs_gpu
def test_more_elements_than_int32_counts() -> None:
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    device = torch.device("cuda")
    batch, voxels = 3, 2**30 + 11
    label = torch.ones(batch, voxels, dtype=torch.uint8, device=device)
    zero, tenth = torch.zeros(batch, device=device), torch.full((batch,), 0.1, device=device)
    step = noise_step(
        label,
        zero,
        tenth,
        source_type="label",
        num_classes=2,
        seed=5,
        network_input=torch.full((batch, 2, voxels), 9.0, dtype=torch.float16, device=device),
    )
    mask = step.network_input
    assert mask.amax() <= 1
    n = torch.arange(batch * voxels - 1000, batch * voxels)
    words = philox_words([n & 0xFFFFFFFF, n >> 32, 0 * n, 0 * n], [torch.tensor(5), 0 * n[0]])
    u = [torch.where(w < 2**31, w, 2**32 - 1 - w).double() * 2.0**-31 for w in words]
    radius = (-2 * u[0].clamp(min=1e-7).log()).sqrt()
    for c, trigonometric in enumerate((torch.cos, torch.sin)):
        expected = 0.5 + 0.05 * radius * trigonometric(2 * torch.pi * u[1])
        ours = mask[-1, c, -1000:].cpu().double()
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)
