"""Typical launches of every Triton kernel, which are compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from recycleseg.kernels._common import launch_shape, padded
from recycleseg.kernels.ddim_update import _ddim_update_fwd_kernel
from recycleseg.kernels.dice_loss import _dice_loss_bwd_kernel, _dice_loss_fwd_kernel
from recycleseg.kernels.noise_step import _noise_step_fwd_kernel

# kernel, type of each argument, values of those that are "constexpr", num_warps
Launch = tuple[Any, dict[str, str], dict[str, Any], int]


def _signature_of(
    kernel: Any,
    pointers: dict[str, str | None],
    constants: dict[str, Any],
    *,
    channels_last: bool = False,
) -> tuple[Any, dict[str, str], dict[str, Any]]:
    """The kernel with the type of each argument and the values of the constant ones.

    pointers: type of those that are not "*fp32", None for one that is not given. Integers are
    int64, but for those strides that are 1 in contiguous or in channels-last memory.
    """
    signature = {}
    values = dict(constants)
    unit = "c" if channels_last else "v"
    for name in kernel.arg_names:
        signature[name] = "constexpr"
        if name.endswith("_ptr"):
            dtype = pointers.get(name, "*fp32")
            if dtype is None:
                values[name] = None
            else:
                signature[name] = dtype
        elif name.startswith("stride_") and name.endswith(unit):
            values[name] = 1
        elif name not in constants:
            signature[name] = "i64"
    return kernel, signature, values


def noise_step() -> Iterator[Launch]:
    """Launches of recycleseg.kernels.noise_step."""
    for num_classes, source, half, drawn, channels_last in (
        (1, "logits", "fp16", True, False),
        (3, "logits", "bf16", True, False),
        (3, "label", "bf16", True, True),
        (5, "probs", "fp32", False, False),
        (16, "logits", "bf16", True, True),
        (64, "logits", "fp32", True, False),
    ):
        block, num_warps = launch_shape(num_classes)
        pointers = {
            "source_ptr": "*u8" if source == "label" else f"*{half}",
            "noise_ptr": None if drawn else "*fp32",
            "seed_ptr": "*i64" if drawn else None,
            "offset_ptr": "*i64" if drawn else None,
            "network_input_ptr": f"*{half}",
        }
        constants = {
            "SOURCE": source,
            "EXCLUSIVE": num_classes > 1,
            "C": num_classes,
            "C_PAD": padded(num_classes),
            "BLOCK": block,
        }
        kernel = _noise_step_fwd_kernel
        yield *_signature_of(kernel, pointers, constants, channels_last=channels_last), num_warps


def dice_loss() -> Iterator[Launch]:
    """Launches of recycleseg.kernels.dice_loss."""
    for num_classes, half, label, gamma, exclusive, channels_last in (
        (1, "fp16", "fp32", 2.0, False, False),
        (3, "bf16", "u8", 2.0, True, False),
        (4, "bf16", "u8", 2.0, True, True),
        (5, "fp32", "fp32", 2.5, False, False),
        (5, "fp32", "fp32", 2.5, True, True),
        (16, "bf16", "u8", 2.5, True, False),
        (64, "fp32", "i64", 2.5, True, True),
        (64, "bf16", "fp32", 2.5, False, False),
        (64, "bf16", "fp32", 2.5, True, False),
    ):
        block, num_warps = launch_shape(num_classes)
        constants = {
            "GAMMA": gamma,
            "C": num_classes,
            "C_PAD": padded(num_classes),
            "BLOCK": block,
            "EXCLUSIVE": exclusive,
            "IS_MASK": label == "fp32",
        }
        pointers: dict[str, str | None] = {
            "logits_ptr": f"*{half}",
            "label_ptr": f"*{label}",
            "grad_ptr": f"*{half}",
            "known_ptr": "*u8" if channels_last else None,
        }
        for kernel in (_dice_loss_fwd_kernel, _dice_loss_bwd_kernel):
            yield (
                *_signature_of(kernel, pointers, constants, channels_last=channels_last),
                num_warps,
            )


def ddim_update() -> Iterator[Launch]:
    """Launches of recycleseg.kernels.ddim_update, asked for least and for most."""
    for num_classes, half, predicts_noise, everything, channels_last in (
        (1, "fp16", True, True, False),
        (3, "bf16", False, False, False),
        (3, "bf16", False, True, True),
        (5, "fp32", True, True, False),
        (16, "bf16", False, True, True),
        (64, "fp32", False, True, False),
    ):
        block, num_warps = launch_shape(num_classes)
        exclusive = num_classes > 1
        asked = "*fp32" if everything else None
        pointers = {
            "model_out_ptr": f"*{half}",
            "start_coefficients_ptr": asked if predicts_noise else None,
            "noise_ptr": None,
            "seed_ptr": "*i64" if everything else None,
            "offset_ptr": "*i64" if everything else None,
            "network_input_ptr": f"*{half}",
            "label_ptr": "*u8" if everything and exclusive else None,
            "probs_ptr": asked,
            "mean_ptr": asked,
            "mean_weight_ptr": asked,
        }
        constants = {
            "PREDICTS_NOISE": predicts_noise,
            "EXCLUSIVE": exclusive,
            "C": num_classes,
            "C_PAD": padded(num_classes),
            "BLOCK": block,
        }
        kernel = _ddim_update_fwd_kernel
        yield *_signature_of(kernel, pointers, constants, channels_last=channels_last), num_warps


# By the name of the operation, which is that of its file in kernels/.
LAUNCHES: dict[str, Callable[[], Iterator[Launch]]] = {
    "ddim_update": ddim_update,
    "dice_loss": dice_loss,
    "noise_step": noise_step,
}
