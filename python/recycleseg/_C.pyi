from collections.abc import Sequence
from typing import Any

# A capsule is a DLPack capsule of a contiguous tensor. Functions fill the tensors that they are
# given and return nothing; what they do stands with the operations of recycleseg.ops.

def build_config() -> dict[str, Any]: ...
def cancel_calls(cancel: bool) -> None: ...
def distance_transform_cpu(
    mask: object, distance: object, spacing: Sequence[float], num_threads: int
) -> None: ...
def dropout_cpu(
    x: object, y: object, rate: float, seed: int, rows: int, first_row: int, num_threads: int
) -> None: ...
def ensemble_vote_cpu(
    settings: object,
    members: Sequence[object],
    weights: Sequence[float],
    tensors: dict[str, object],
    num_threads: int,
) -> None: ...
def ensemble_vote_fits_gpu(settings: object, num_members: int, with_state: bool) -> bool: ...
def norm_act_backward_cpu(
    x: object,
    weight: object,
    bias: object,
    residual: object,
    grad_y: object,
    moments: object,
    grad_x: object,
    grad_residual: object,
    grad_affine: object,
    activation: bool,
    num_threads: int,
) -> None: ...
def norm_act_forward_cpu(
    x: object,
    weight: object,
    bias: object,
    residual: object,
    y: object,
    moments: object,
    activation: bool,
    eps: float,
    num_threads: int,
) -> None: ...
def overlap_counts_cpu(
    pred: object,
    ref: object,
    counts: object,
    invalid: object,
    num_threads: int,
    sums: object = None,
) -> None: ...
def surface_distances_cpu(
    pred: object,
    ref: object,
    query: object,
    directed: object,
    pooled: object,
    num_threads: int,
    counts: Sequence[object] = (),
) -> None: ...
def vote_state_shape(settings: object, voxels: int) -> tuple[int, int]: ...

# The extension has these only where it was built for CUDA.
def distance_transform_cuda(
    mask: object, distance: object, workspace: object, spacing: Sequence[float], stream: int
) -> None: ...
def ensemble_vote_cuda(
    settings: object,
    members: Sequence[object],
    weights: Sequence[float],
    tensors: dict[str, object],
    stream: int,
) -> None: ...
def overlap_counts_cuda(
    pred: object, ref: object, counts: object, invalid: object, stream: int, sums: object = None
) -> None: ...
