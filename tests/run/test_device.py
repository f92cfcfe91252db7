"""The device and the precision that a run computes in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from recycleseg.run.device import AutocastNetwork, choose_device, choose_precision


@pytest.fixture(params=[0, 1, 3])
def num_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pretend that there are so many GPUs; none is used."""
    number: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    return number


def test_devices_that_are_there(num_gpus: int) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto") == torch.device("cuda" if num_gpus else "cpu")
    for name in ["cuda", *(f"cuda:{n}" for n in range(num_gpus))] if num_gpus else []:
        assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(
    "name", ["cuda:3", "cuda:10", "cuda:-1", "mps", "meta", "cpu:0", "gpu", ""]
)
def test_devices_that_are_not(num_gpus: int, name: str) -> None:
    message = rf"runtime.device: expected auto, cpu, .* \({num_gpus}\), got {name!r}"
    with pytest.raises(ValueError, match=message):
        choose_device(name)


def test_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="runtime.device: .* got 'cuda'"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("name", "cuda", "visible", "advice"),
    [
        ("cuda", None, None, "this PyTorch is a build for the CPU: install its CUDA build"),
        ("cuda", "12.8", "", "CUDA_VISIBLE_DEVICES= hides the GPUs"),
        ("cuda:1", "12.8", None, "PyTorch finds no NVIDIA driver: see whether nvidia-smi lists"),
        ("gpu", None, None, "did you mean cuda?"),
        ("1", "12.8", None, "did you mean cuda:1?"),
    ],
)
def test_what_to_do_without_a_gpu(
    name: str, cuda: str | None, visible: str | None, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ValueError, match=f"runtime.device: .*; {re.escape(advice)}"):
        choose_device(name)


@pytest.mark.parametrize("native", [False, True])
def test_precision_is_bf16_where_the_machine_computes_in_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a GPU without bf16 units emulates it, slowly
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    flags = "flags\t: fpu avx512_bf16 sse" if native else "flags\t: fpu sse"
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: flags)
    for device in (torch.device("cpu"), torch.device("cuda")):
        assert choose_precision("auto", device) == ("bf16" if native else "float32")
        for name in ("bf16", "float32"):
            assert choose_precision(name, device) == name


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_autocast_computes_in_the_precision(precision: str) -> None:
    class Linear(torch.nn.Linear):
        def forward(self, image: Any, mask: Any, t: Any) -> Any:  # type: ignore[override]
            return super().forward(image)

    out = AutocastNetwork(Linear(3, 2), torch.device("cpu"), precision)(torch.ones(1, 3))
    assert out.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
