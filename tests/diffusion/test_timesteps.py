"""Time step samplers: unbiasedness, statistics, and the arrays computed by ImgX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.diffusion.timesteps import ImportanceTimesteps, Timesteps, UniformTimesteps

# float32 rounding of a sum over up to 1001 steps
ROUNDING = {"rtol": 5e-6, "atol": 1e-9}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def importance(loss_sq: Tensor, loss_count: Tensor | int = 10, **options: Any) -> Any:
    timesteps = ImportanceTimesteps(len(loss_sq), **options)
    count = torch.as_tensor(loss_count).expand(len(loss_sq)).long()
    timesteps.load_state_dict({"loss_sq": loss_sq, "loss_count": count.clone()})
    return timesteps


# arrays computed by ImgX


class Arrays:
    """Arrays of one ImgX file as tensors, that remembers which were read."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str) -> None:
        self.left = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    def __call__(self, key: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.left.pop(key)))


@pytest.mark.parametrize("num_timesteps", [11, 1001])
def test_equals_imgx(reference: Callable[[str], dict[str, np.ndarray]], num_timesteps: int) -> None:
    everything = reference("e_time_sampler")
    assert {key.split("/")[0] for key in everything} == {"T11", "T1001"}
    arrays = Arrays(everything, f"T{num_timesteps}/")
    loss_sq, loss_count = arrays("in/loss_sq_hist"), arrays("in/loss_count_hist")
    compare_probabilities(arrays, loss_sq, loss_count)
    compare_summary(arrays, importance(loss_sq, loss_count))
    compare_updates(arrays, num_timesteps)
    compare_draws(arrays, loss_sq)
    schedule = NoiseSchedule("linear", num_timesteps)
    time = GaussianDiffusion(schedule, imgx_compat=True).network_time(torch.arange(num_timesteps))
    close(time, arrays("t_index_to_t"))
    assert not arrays.left


def compare_probabilities(arrays: Arrays, loss_sq: Tensor, loss_count: Tensor) -> None:
    one_nan = loss_sq.clone()
    one_nan[0] = math.nan
    zero, warm = torch.zeros_like(loss_sq), torch.full_like(loss_count, 10)
    for case, values in {"": loss_sq, "(zeros)": zero, "(one_nan)": one_nan}.items():
        close(importance(values).loss_probs(), arrays(f"t_probs_from_loss_sq{case}"))
    for case, counts in {"": loss_count, "(zeros)": 0 * warm, "(all_warm)": warm}.items():
        ours = importance(loss_sq, counts).warmup_probs()
        close(ours, arrays(f"t_probs_from_loss_count{case}"))


def compare_summary(arrays: Arrays, timesteps: ImportanceTimesteps) -> None:
    p, count, loss_sq = timesteps.loss_probs(), timesteps.loss_count, timesteps.loss_sq
    summary = {
        "loss_hist_entropy": -(p * p.log()).sum(),
        "mean_loss_count_hist": count.float().mean(),
        "median_loss_count_hist": count.float().median(),
        "min_loss_count_hist": count.min().int(),
        "max_loss_count_hist": count.max().int(),
        "mean_loss_sq_hist": loss_sq.mean(),
        "min_loss_sq_hist": loss_sq.min(),
        "max_loss_sq_hist": loss_sq.max(),
    }
    for name, ours in summary.items():
        close(ours, arrays(f"get_importance_sampling_metrics/{name}"))


def compare_updates(arrays: Arrays, num_timesteps: int) -> None:
    timesteps = ImportanceTimesteps(num_timesteps, imgx_compat=True)
    plain = ImportanceTimesteps(num_timesteps)
    for step in range(6):
        loss = arrays(f"update_stats/step{step}/in/loss_batch")
        t_index = arrays(f"update_stats/step{step}/in/t_index").long()
        timesteps.update(loss, t_index)
        plain.update(loss, t_index)
        close(timesteps.loss_sq, arrays(f"update_stats/step{step}/loss_sq_hist"))
        counts = arrays(f"update_stats/step{step}/loss_count_hist")
        assert timesteps.loss_count.equal(counts.long())
    torch.testing.assert_close(plain.state_dict(), timesteps.state_dict())


def compare_draws(arrays: Arrays, loss_sq: Tensor) -> None:
    """The generators differ, so the maps t_index -> t and t_index -> weight are compared."""
    num_timesteps = len(loss_sq)
    for case in ("warm", "warm_tmax-1", "warmup", "uniform"):
        count = arrays(f"sample/{case}/in/loss_count_hist")
        t_index_max = int(arrays(f"sample/{case}/in/t_index_max"))
        their_index = arrays(f"sample/{case}/t_index").long()
        close((their_index + 1) / num_timesteps, arrays(f"sample/{case}/t"))
        weight_at = torch.full((num_timesteps,), math.nan)
        weight_at[their_index] = arrays(f"sample/{case}/probs_t") * num_timesteps
        timesteps: Timesteps = importance(loss_sq, count, imgx_compat=True)
        if case == "uniform":
            timesteps = UniformTimesteps(num_timesteps)
        ours, weight = timesteps.sample(4096, 0, t_index_max, generator=seeded())
        both = ~weight_at[ours].isnan()
        assert int(both.sum()) > 100
        close(weight[both], weight_at[ours][both])


# drawing


@pytest.mark.parametrize("low_high", [(0, 20), (3, 17), (0, 19), (5, 6)])
@pytest.mark.parametrize("kind", ["uniform", "importance"])
def test_weighted_mean_is_unbiased(kind: str, low_high: tuple[int, int]) -> None:
    loss = torch.linspace(0.1, 3, 20, dtype=torch.float64).square()
    timesteps: Timesteps = UniformTimesteps(20)
    if kind == "importance":
        timesteps = importance((loss * 0.7).square().float())
    draws = 40_000
    t_index, weight = timesteps.sample(draws, *low_high, generator=seeded())
    assert t_index.dtype == torch.int64
    assert int(t_index.min()) >= low_high[0]
    assert int(t_index.max()) < low_high[1]
    weighted = loss[t_index] * weight
    error = float(weighted.mean() - loss[slice(*low_high)].mean())
    # four standard errors of the mean, and float32 rounding of the weights
    assert abs(error) <= 4 * float(weighted.std()) / math.sqrt(draws) + 1e-6


def test_importance_draws_where_the_loss_is_large() -> None:
    timesteps = importance(torch.tensor([0.0, 1.0, 9.0, 36.0]))
    t_index, weight = timesteps.sample(50_000, 0, 4, generator=seeded())
    p = 0.99 * torch.tensor([0.0, 0.1, 0.3, 0.6]) + 0.01 / 4
    frequency = t_index.bincount(minlength=4) / 50_000
    # four standard deviations of a frequency
    torch.testing.assert_close(frequency, p, rtol=0, atol=4 * 0.5 / math.sqrt(50_000))
    torch.testing.assert_close(weight, 1 / (4 * p[t_index]))


def test_probabilities_are_those_of_the_drawn_range() -> None:
    loss_sq = torch.tensor([1.0, 4.0, 9.0, 1e6])
    t_index, weight = importance(loss_sq, uniform_prob=1e-6).sample(500, 0, 3, generator=seeded())
    expected = 6 / (3 * torch.tensor([1.0, 2.0, 3.0]))
    # the uniform share is of the probability that lies outside of the range too
    torch.testing.assert_close(weight, expected[t_index], rtol=2e-3, atol=0)


def test_warmup_visits_what_lacks_losses() -> None:
    count = torch.tensor([10, 4, 10, 10, 7, 0])
    timesteps = importance(torch.rand(6, generator=seeded()), count)
    t_index, weight = timesteps.sample(20_000, 0, 5, generator=seeded())
    assert weight.equal(torch.ones(20_000))
    frequency = t_index.bincount(minlength=6) / 20_000
    expected = torch.tensor([0, 6 / 9, 0, 0, 3 / 9, 0])
    torch.testing.assert_close(frequency, expected, rtol=0, atol=4 * 0.5 / math.sqrt(20_000))
    # step 5 lacks losses too, but is out of the range of the draw
    _, warm_weight = timesteps.sample(100, 2, 4, generator=seeded())
    assert not warm_weight.equal(torch.ones(100))


@pytest.mark.parametrize("make", [UniformTimesteps, ImportanceTimesteps])
def test_draws_are_seeded(make: Callable[[int], Timesteps]) -> None:
    timesteps = make(1001)
    first, _ = timesteps.sample(64, 0, 1000, generator=seeded(1))
    assert first.equal(timesteps.sample(64, 0, 1000, generator=seeded(1))[0])
    assert not first.equal(timesteps.sample(64, 0, 1000, generator=seeded(2))[0])


# statistics


def test_statistics_follow_the_root_mean_square() -> None:
    timesteps = ImportanceTimesteps(3)
    for _ in range(200):
        timesteps.update(torch.tensor([2.0, 3.0]), torch.tensor([0, 2]))
    # 0.9^200 of the starting value 0 is left
    torch.testing.assert_close(timesteps.loss_sq, torch.tensor([4.0, 0.0, 9.0]))
    assert timesteps.loss_count.tolist() == [200, 0, 200]


def test_the_last_of_several_losses_of_one_step_counts() -> None:
    timesteps = ImportanceTimesteps(4, decay=0.0)
    timesteps.update(torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([3, 1, 3, 1]))
    assert timesteps.loss_sq.tolist() == [0, 25, 0, 9]
    assert timesteps.loss_count.tolist() == [0, 2, 0, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_losses_that_are_not_finite_never_enter(bad: float) -> None:
    """1e30 is finite, its square in float32 is not."""
    timesteps = ImportanceTimesteps(5, decay=0.0)
    timesteps.update(torch.tensor([1.0, bad, 2.0, bad]), torch.tensor([0, 0, 1, 4]))
    assert timesteps.loss_sq.tolist() == [1, 4, 0, 0, 0]
    assert timesteps.loss_count.tolist() == [1, 1, 0, 0, 0]
    imgx = ImportanceTimesteps(5, decay=0.0, imgx_compat=True)
    imgx.update(torch.tensor([1.0, bad]), torch.tensor([0, 0]))
    assert not imgx.loss_sq[0].isfinite()


def test_update_does_not_keep_the_graph() -> None:
    timesteps = ImportanceTimesteps(5)
    timesteps.update(torch.rand(2, requires_grad=True), torch.tensor([0, 1]))
    assert not timesteps.loss_sq.requires_grad


def test_state_is_restored() -> None:
    timesteps = ImportanceTimesteps(7)
    timesteps.update(torch.rand(3, generator=seeded()), torch.tensor([0, 4, 6]))
    state = timesteps.state_dict()
    restored = ImportanceTimesteps(7)
    restored.load_state_dict(state)
    timesteps.update(torch.ones(1), torch.tensor([0]))
    torch.testing.assert_close(restored.state_dict(), state, rtol=0, atol=0)
    assert not state["loss_sq"].equal(timesteps.loss_sq)
    restored.update(torch.ones(1), torch.tensor([0]))
    torch.testing.assert_close(restored.state_dict(), timesteps.state_dict(), rtol=0, atol=0)
    uniform = UniformTimesteps(7)
    uniform.update(torch.ones(1), torch.tensor([0]))
    uniform.load_state_dict(uniform.state_dict())


def test_state_follows_the_device_of_the_draws() -> None:
    timesteps = ImportanceTimesteps(7)
    t_index, weight = timesteps.sample(4, 0, 7, device="meta")
    assert t_index.device.type == weight.device.type == "meta"
    timesteps.update(torch.ones(4, device="meta"), t_index)
    assert timesteps.loss_sq.device.type == timesteps.loss_count.device.type == "meta"


@pytest.mark.parametrize("imgx_compat", [False, True])
def test_compiles_as_one_graph(imgx_compat: bool) -> None:
    def step(timesteps: ImportanceTimesteps, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t_index, weight = timesteps.sample(4, 0, 10)
        timesteps.update(loss, t_index)
        return t_index, weight, timesteps.loss_sq

    loss = torch.rand(4, generator=seeded())
    loss_sq = torch.rand(11, generator=seeded())
    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend="eager")):
        torch.manual_seed(0)
        results.append(run(importance(loss_sq, imgx_compat=imgx_compat), loss))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UniformTimesteps(10).sample(2, 3, 3), "t_index_min=3 and t_index_max=3"),
        (lambda: ImportanceTimesteps(10).sample(2, 0, 11), "<= 10, got .*t_index_max=11"),
        (lambda: ImportanceTimesteps(10).sample(2, -1, 5), "t_index_min=-1"),
        (lambda: ImportanceTimesteps(10, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: ImportanceTimesteps(10, uniform_prob=0.0), r"uniform_prob .* got 0.0"),
        (lambda: UniformTimesteps(3).load_state_dict({"a": torch.ones(1)}), r"no state, got \['a'"),
        (lambda: ImportanceTimesteps(3).load_state_dict({}), r"\['loss_count', 'loss_sq'\], got"),
        (
            lambda: ImportanceTimesteps(3).load_state_dict(ImportanceTimesteps(4).state_dict()),
            r"loss_sq must have shape \(3,\), got \(4,\)",
        ),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, **ROUNDING)
