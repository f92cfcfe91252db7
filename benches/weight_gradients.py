"""Does it pay to compute weight gradients of 2D convolutions from contiguous copies?

python benches/weight_gradients.py                              # one thread
ONEDNN_MAX_CPU_ISA=AVX2 python benches/weight_gradients.py      # as on a CPU without AVX-512

Networks keep 2D activations channels-last. For each convolution of a U-Net for images: GFLOP/s of
the forward pass, of the input's gradient, and of the weight's gradient in both layouts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

# Channels in and out, and the size of the image.
SHAPES = [
    (3, 32, 192, 256),
    (32, 32, 192, 256),
    (32, 64, 96, 128),
    (64, 64, 96, 128),
    (64, 128, 48, 64),
    (128, 128, 48, 64),
    (128, 256, 24, 32),
    (256, 256, 24, 32),
    (256, 256, 12, 16),
    (64, 32, 192, 256),
    (128, 64, 96, 128),
]
BATCH, KERNEL, REPEATS = 2, 3, 5


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest call; the first one does not count."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gradient(grad: Tensor, x: Tensor, weight: Tensor, *, of_weight: bool, copies: bool) -> object:
    """One of the gradients of a convolution."""
    if copies:
        grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    wanted = [not of_weight, of_weight, False]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted
    )


def main() -> None:
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        sums = dict.fromkeys(("forward", "input", "channels-last", "copies", "faster"), 0.0)
        for cin, cout, height, width in SHAPES:

            def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
                return torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)

            x, grad = random(BATCH, cin, height, width), random(BATCH, cout, height, width)
            weight = random(cout, cin, KERNEL, KERNEL)
            forward = partial(torch.nn.functional.conv2d, x, weight, padding=1)
            backward = partial(gradient, grad, x, weight)
            seconds = {
                "forward": fastest(forward),
                "input": fastest(partial(backward, of_weight=False, copies=False)),
                "channels-last": fastest(partial(backward, of_weight=True, copies=False)),
                "copies": fastest(partial(backward, of_weight=True, copies=True)),
            }
            flop = 2 * BATCH * cin * cout * height * width * KERNEL**2
            speeds = ", ".join(f"{k} {flop / s / 1e9:.0f}" for k, s in seconds.items())
            print(f"{dtype} {cin} to {cout} channels, {height}x{width}: {speeds} GFLOP/s")
            seconds["faster"] = min(seconds["channels-last"], seconds["copies"])
            sums = {name: sums[name] + seconds[name] for name in sums}
        print(f"{dtype} together: {', '.join(f'{k} {s * 1e3:.0f} ms' for k, s in sums.items())}")


if __name__ == "__main__":
    main()
