"""ddim_update's kernel against its reference: interpreted on a CPU, for real on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recycleseg.ops.ddim_update import DdimUpdate, ddim_update
from recycleseg.ops.philox import philox_normal

CLASSES = [1, 2, 3, 4, 5, 16, 33, 64]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Several programs a sample and a rest; with many classes a program has 32 voxels.
SHAPES = {False: [(2, 3, 5, 7), (1, 1, 1), (2, 23, 29)], True: [(2, 2, 3, 7), (1, 1, 1)]}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def contiguous(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def random_state(shape: tuple[int, ...], num_classes: int) -> dict[str, Tensor]:
    """model_out and x_t (B, C, *S), coefficients and start_coefficients."""
    generator = torch.Generator().manual_seed(0)
    batch, *spatial = shape
    model_out, x_t = 2 * torch.randn((2, batch, num_classes, *spatial), generator=generator)
    return {
        "model_out": model_out,
        "x_t": x_t,
        "coefficients": torch.rand((batch, 3), generator=generator),
        "start_coefficients": torch.rand((batch, 2), generator=generator) - 0.3,
    }


def both(
    state: dict[str, Tensor], network_input: Tensor, probs_mean: Tensor | None, **kwargs: Any
) -> list[tuple[DdimUpdate, Tensor, Tensor | None]]:
    """What the kernel and the reference give, each with its own copies of what is written to."""
    results = []
    for backend in ("auto", "reference"):
        mask = torch.empty_like(network_input).copy_(network_input)
        mean = None if probs_mean is None else torch.empty_like(probs_mean).copy_(probs_mean)
        update = ddim_update(
            **state,
            **kwargs,
            network_input=mask,
            first_channel=1,
            probs_mean=mean,
            mean_weight=None if mean is None else 0.25,
            backend=backend,
        )
        results.append((update, mask, mean))
    return results


def assert_equal(
    results: list[tuple[DdimUpdate, Tensor, Tensor | None]], num_classes: int, tolerance: float
) -> None:
    (ours, mask, mean), (reference, expected_mask, expected_mean) = results
    assert ours.x_prev.isfinite().all()
    close = {"rtol": tolerance, "atol": 2 * tolerance}
    torch.testing.assert_close(ours.x_prev, reference.x_prev, **close)
    assert ours.x_prev.stride() == reference.x_prev.stride()
    for left, right in ((ours.probs, reference.probs), (mean, expected_mean)):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            torch.testing.assert_close(left, right, **close)
    assert (ours.label is None) == (reference.label is None)
    if ours.label is not None and reference.label is not None:
        assert ours.label.equal(reference.label)
    # Rounding may fall to either side in half precision.
    torch.testing.assert_close(
        mask[:, 1 : num_classes + 1].float(),
        expected_mask[:, 1 : num_classes + 1].float(),
        rtol=0,
        atol=max(torch.finfo(mask.dtype).eps, tolerance),
    )
    assert mask[:, [0, -1]].isnan().all()


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
    fuse("ddim_update")
    for shape in SHAPES[num_classes > 5]:
        batch, *spatial = shape
        state = random_state(shape, num_classes)
        state["model_out"] = layout(state["model_out"].to(dtype))
        state["x_t"] = layout(state["x_t"])
        state = {name: tensor.to(device) for name, tensor in state.items()}
        network_input = torch.full((batch, num_classes + 2, *spatial), torch.nan, dtype=dtype)
        network_input = layout(network_input).to(device)
        mean = layout(torch.full((batch, num_classes, *spatial), 0.5)).to(device)
        for kwargs in (
            {"seed": 3, "offset": 2**33 + 1, "exclusive": False, "return_probs": True},
            {"seed": 3, "return_label": True, "return_probs": True},
        ):
            assert_equal(both(state, network_input, mean, **kwargs), num_classes, tolerance)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("num_classes", [1, 3, 5])
def test_of_predicted_noise(
    num_classes: int,
    exclusive: bool,
    fuse: Callable[[str], None],
    device: torch.device,
    tolerance: float,
) -> None:
    fuse("ddim_update")
    state = random_state((2, 9, 8, 7), num_classes)
    state = {name: tensor.to(device) for name, tensor in state.items()}
    network_input = torch.full((2, num_classes + 2, 9, 8, 7), torch.nan, device=device)
    mean = torch.zeros(2, num_classes, 9, 8, 7, device=device)
    asked = {"return_label": exclusive, "return_probs": True}
    for kwargs in (asked, {**asked, "noise": state["x_t"].flip(0)}, {**asked, "seed": 1}):
        kwargs = {**kwargs, "exclusive": exclusive, "prediction_type": "noise"}
        results = both(state, network_input, mean, **kwargs)
        assert_equal(results, num_classes, tolerance)
    del state["start_coefficients"]
    results = both(state, network_input, None, prediction_type="noise", seed=1)
    assert_equal(results, num_classes, tolerance)


def test_alone_it_gives_nothing_but_x_prev(
    fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    fuse("ddim_update")
    state = {name: t.to(device) for name, t in random_state((2, 5, 6), 3).items()}
    ours, reference = (ddim_update(**state, backend=backend) for backend in ("auto", "reference"))
    torch.testing.assert_close(ours.x_prev, reference.x_prev, rtol=0, atol=2 * tolerance)
    assert ours[1:] == (None, None)


def test_views_of_any_layout(
    fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    fuse("ddim_update")
    state = {name: t.to(device) for name, t in random_state((2, 6, 5, 4), 3).items()}
    out, x_t = state["model_out"], state["x_t"]
    twice = torch.cat([out, x_t], dim=1)
    network_input = torch.full((2, 5, 6, 5, 4), torch.nan, device=device)
    big = torch.zeros(2, 8, 6, 5, 4, device=device)
    for model_out, state_x, noise, mean in (
        (twice[:, :3], channels_last(x_t), channels_last(x_t).bfloat16(), big[:, 2:5]),
        (channels_last(twice)[:, 3:], x_t.half(), twice[:, ::2], channels_last(big)[:, 4:7]),
        (out.mT.contiguous().mT, x_t.mT.contiguous().mT, x_t.flip(1), big[:, ::3]),
        (out[:1, :1, :1].expand_as(out), x_t[:1].expand_as(x_t), out.mT.clone().mT, big[:, 5:]),
    ):
        results = both(
            {**state, "model_out": model_out, "x_t": state_x},
            network_input,
            mean,
            noise=noise,
            return_label=True,
        )
        assert_equal(results, 3, tolerance)


def test_the_mean_is_updated_in_place_and_its_weight_may_be_a_tensor(
    fuse: Callable[[str], None], device: torch.device, tolerance: float
) -> None:
    fuse("ddim_update")
    mean = torch.full((2, 3, 40), 77.0, device=device)
    samples = []
    for n in range(1, 4):
        state = {name: t.to(device) for name, t in random_state((2, 40), 3).items()}
        state["model_out"] *= n
        samples.append(state["model_out"].softmax(1))
        weight = torch.tensor(1 / n, device=device) if n % 2 else 1 / n
        ddim_update(**state, probs_mean=mean, mean_weight=weight)
    # The 77 with which it starts is rounded to 8e-6 and then taken off.
    expected = torch.stack(samples).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5 + tolerance)


def test_the_first_of_equal_classes_is_the_label(
    fuse: Callable[[str], None], device: torch.device
) -> None:
    fuse("ddim_update")
    scores = torch.tensor([[5, 5, 1, 1, 1], [1, 3, 3, 3, 3], [-9, -9, -9, -8, -8], [0, 0, 0, 0, 0]])
    model_out = scores.T[None].to(device).float()
    state = {"x_t": torch.zeros_like(model_out), "coefficients": torch.zeros(1, 3, device=device)}
    assert ddim_update(model_out, **state, return_label=True).label.tolist() == [[0, 1, 3, 0]]
    # Of p, which is clipped to 1: scores of 1 and above are equal.
    start = torch.tensor([[0.0, 1.0]], device=device)
    for_noise = {"prediction_type": "noise", "start_coefficients": start, **state}
    assert ddim_update(model_out, **for_noise, return_label=True).label.tolist() == [[0, 0, 0, 0]]


def test_nan_is_not_hidden(fuse: Callable[[str], None], device: torch.device) -> None:
    fuse("ddim_update")
    state = {name: t.to(device) for name, t in random_state((1, 4), 3).items()}
    state["model_out"][0, 1, 2] = torch.nan
    network_input = torch.zeros(1, 3, 4, device=device)
    update = ddim_update(
        **state, network_input=network_input, return_label=True, return_probs=True, seed=0
    )
    for result in (update.x_prev, update.probs, network_input):
        assert result is not None
        assert result[0, :, 2].isnan().all()
        assert result[0, :, [0, 1, 3]].isfinite().all()
    assert update.label is not None
    assert update.label.max() < 3


def test_nothing_to_do(fuse: Callable[[str], None], device: torch.device) -> None:
    fuse("ddim_update")
    for batch, voxels in ((0, 4), (2, 0)):
        x = torch.zeros(batch, 3, voxels, device=device)
        update = ddim_update(x, x, x.new_zeros(batch, 3), return_label=True)
        assert update.x_prev.shape == x.shape
        assert update.label is not None
        assert update.label.shape == (batch, voxels)


@pytest.mark.parametrize("name", ["network_input", "probs_mean"])
def test_output_that_does_not_collapse_is_named(
    name: str, fuse: Callable[[str], None], device: torch.device
) -> None:
    fuse("ddim_update")
    x = torch.zeros(1, 3, 4, 6, device=device)
    with pytest.raises(ValueError, match=f"{name}: expected spatial axes that collapse"):
        ddim_update(
            x,
            x,
            x.new_zeros(1, 3),
            mean_weight=1.0 if name == "probs_mean" else None,
            **{name: x.mT.contiguous().mT},
        )


def test_is_a_well_formed_operator(opcheck: Callable[..., None], device: torch.device) -> None:
    from recycleseg.kernels.ddim_update import ddim_update_op

    state = {name: t.to(device) for name, t in random_state((2, 4, 5), 3).items()}
    model_out, x_t, coefficients, start_coefficients = state.values()
    seed, offset = torch.tensor(1).to(device), torch.tensor(2).to(device)
    mask = torch.zeros(2, 4, 4, 5).to(device)
    label = torch.zeros(2, 4, 5, dtype=torch.uint8).to(device)
    x_prev, probs, mean = (torch.zeros_like(x_t) for _ in range(3))
    for asked in ((None,) * 5, (mask, label, probs, mean, torch.tensor(0.5).to(device))):
        opcheck(
            ddim_update_op,
            (
                *(model_out, x_t, coefficients, start_coefficients, None, seed, offset, x_prev),
                *asked,
                True,
                True,
                1,
            ),
        )


@pytest.mark.gpu
@needs_gpu
def test_compiled_full_graph_equals_eager() -> None:
    state = {name: t.cuda() for name, t in random_state((2, 33, 31), 3).items()}
    del state["start_coefficients"]

    def step(network_input: Tensor, mean: Tensor, offset: Tensor) -> tuple[Tensor, Tensor | None]:
        update = ddim_update(
            **{**state, "model_out": 2 * state["model_out"]},
            seed=4,
            offset=offset + 1,
            network_input=network_input,
            first_channel=1,
            return_label=True,
            probs_mean=mean,
            mean_weight=0.5,
        )
        return update.x_prev + network_input[:, 1:], update.label

    offset = torch.tensor(2).cuda()
    results = []
    for run in (step, torch.compile(step, fullgraph=True)):
        network_input = torch.ones(2, 4, 33, 31, device="cuda", dtype=torch.bfloat16)
        mean = torch.ones(2, 3, 33, 31, device="cuda")
        results.append([*run(network_input, mean, offset), network_input, mean])
    for compiled, eager in zip(*results[::-1], strict=True):
        atol = 2**-8 if eager.dtype == torch.bfloat16 else 2e-5
        torch.testing.assert_close(compiled, eager, rtol=2e-5, atol=atol)


@pytest.mark.gpu
@needs_gpu
def test_a_replayed_cuda_graph_draws_fresh_noise() -> None:
    device = torch.device("cuda")
    x = torch.zeros(2, 3, 16, 16, device=device)
    offset = torch.zeros((), dtype=torch.int64, device=device)
    coefficients = torch.tensor([[0.0, 0.0, 1.0]] * 2, device=device)

    def step() -> Tensor:
        return ddim_update(x, x, coefficients, seed=5, offset=offset).x_prev

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x_prev = step()
    for n in (1, 2, 3):
        offset.fill_(n)
        graph.replay()
        expected = philox_normal(x.shape, 5, n, device)
        torch.testing.assert_close(x_prev, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.gpu
@needs_gpu
def test_more_elements_than_int32_counts() -> None:
    if torch.cuda.mem_get_info()[0] < 36 * 2**30:
        pytest.skip("needs 36 GiB of free GPU memory")
    voxels = 2**30 + 11
    model_out = torch.zeros(1, 2, voxels, dtype=torch.float16, device="cuda")
    x_t = torch.zeros(1, 2, voxels, dtype=torch.float16, device="cuda")
    model_out[:, 1, -1000:] = 9.0
    x_t[:, 1, -1000:] = 3.0
    update = ddim_update(
        model_out, x_t, torch.tensor([[1.0, 2.0, 0.0]], device="cuda"), return_label=True
    )
    assert update.label is not None
    assert update.label.sum() == 1000
    assert update.label[:, -1000:].all()
    for part in (slice(0, 1000), slice(-1000, None)):
        expected = 2 * model_out[..., part].float().softmax(1) - 1 + 2 * x_t[..., part].float()
        torch.testing.assert_close(update.x_prev[..., part], expected, rtol=1e-5, atol=1e-5)
