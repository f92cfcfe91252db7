"""norm_act against its reference in float64, torch's own layers, and its contract."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops.norm_act import _norm_act, norm_act, norm_act_reference

needs_cpp = pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")

SHAPES = [
    (2, 16, 9, 8, 7),  # whole vectors
    (1, 5, 33, 9),  # fewer channels than a vector
    (3, 37, 41),  # two vectors and a rest
    (2, 1, 4, 6),
    (1, 3, 2, 1, 1),
    (2, 24, 45, 40, 41),  # many chunks, of which the last is short, for several threads
]
DTYPES = [torch.float32, torch.bfloat16]


def random_arguments(
    shape: tuple[int, ...], dtype: torch.dtype, *, residual: bool, seed: int = 0
) -> list[Tensor | None]:
    """x far from zero mean, weight, bias, residual."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(shape, generator=generator) + 3
    weight, bias = torch.randn((2, *shape[:2]), generator=generator)
    other = torch.randn(shape, generator=generator).to(dtype) if residual else None
    return [x.to(dtype), weight, bias, other]


def with_gradients(
    arguments: list[Tensor | None], cotangent: Tensor, **kwargs: Any
) -> list[Tensor]:
    """y and the gradients of all tensors among the arguments."""
    leaves = [None if a is None else a.detach().clone().requires_grad_() for a in arguments]
    y = norm_act(*leaves, **kwargs)
    inputs = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, inputs, cotangent)]


def assert_close(ours: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    assert len(ours) == len(exact)
    for value, expected in zip(ours, exact, strict=True):
        assert value.isfinite().all()
        bound = tolerance * max(expected.abs().max().item(), 1.0)
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=bound)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
BACKENDS = [
    pytest.param("cpp", "cpu", marks=needs_cpp),
    pytest.param("native", "cpu"),
    pytest.param("native", "cuda", marks=[pytest.mark.gpu, needs_gpu]),
]


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_gradients_equal_the_reference_in_float64(
    shape: tuple[int, ...], dtype: torch.dtype, backend: str, device: str
) -> None:
    for residual, activation in itertools.product((False, True), (False, True)):
        arguments = random_arguments(shape, dtype, residual=residual)
        cotangent = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        ours = with_gradients(
            [None if a is None else a.to(device) for a in arguments],
            cotangent.to(device),
            activation=activation,
            backend=backend,
        )
        exact = with_gradients(
            [None if a is None else a.double() for a in arguments],
            cotangent.double(),
            activation=activation,
            backend="reference",
        )
        # Rounding of the result, and in the gradient of x of two terms that nearly cancel; where
        # there are two voxels, the variance may be small and its root magnify it.
        assert_close([a.cpu() for a in ours], exact, 2e-5 if dtype == torch.float32 else 2e-2)


@needs_cpp
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_layouts_give_the_same(dtype: torch.dtype) -> None:
    arguments = random_arguments((2, 6, 7, 5, 4), dtype, residual=True)
    cotangent = torch.ones(()).to(dtype).expand(2, 6, 7, 5, 4)
    expected = with_gradients(arguments, cotangent, backend="cpp")
    last = torch.channels_last_3d
    for change in (
        lambda a: a.contiguous(memory_format=last) if a.ndim == 5 else a,
        lambda a: a.transpose(0, 1).contiguous().transpose(0, 1),
        lambda a: torch.stack([a, a], dim=-1)[..., 0],
    ):
        changed = [None if a is None else change(a) for a in arguments]
        for left, right in zip(
            with_gradients(changed, cotangent, backend="cpp"), expected, strict=True
        ):
            assert torch.equal(left, right)
    assert expected[0].is_contiguous(memory_format=last)
    assert expected[1].is_contiguous(memory_format=last)


@needs_cpp
def test_result_does_not_depend_on_the_number_of_threads() -> None:
    arguments = random_arguments((3, 16, 60, 50), torch.float32, residual=True)
    cotangent = torch.randn(3, 16, 60, 50, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients(arguments, cotangent, backend="cpp"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_cpp
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 7, 16, 35])
def test_every_element_is_written_and_no_other(dtype: torch.dtype, channels: int) -> None:
    arguments = random_arguments((2, channels, 3, 5), dtype, residual=True)
    x, weight, bias, residual = (a for a in arguments if a is not None)
    last = [t.movedim(1, -1).contiguous() for t in (x, residual)]
    guarded = torch.full((4, *last[0].shape), torch.nan, dtype=dtype)
    tables = torch.full((6, 2, channels), torch.nan)
    inputs = lambda: [_ext.capsule(t) for t in (last[0], weight, bias, last[1])]  # noqa: E731
    _ext.C.norm_act_forward_cpu(
        *inputs(), _ext.capsule(guarded[1]), _ext.capsule(tables[1:3]), True, 1e-6, 1
    )
    assert guarded[1].isfinite().all()
    assert tables[1:3].isfinite().all()
    assert guarded[[0, 2, 3]].isnan().all()
    assert tables[[0, 3, 4, 5]].isnan().all()
    moments = tables[1:3].clone()
    guarded.fill_(torch.nan)
    tables.fill_(torch.nan)
    outputs = [_ext.capsule(t) for t in (guarded[1], guarded[2], tables[3:5])]
    _ext.C.norm_act_backward_cpu(
        *inputs(), _ext.capsule(last[1]), _ext.capsule(moments), *outputs, True, 1
    )
    assert guarded[1:3].isfinite().all()
    assert tables[3:5].isfinite().all()
    assert guarded[[0, 3]].isnan().all()
    assert tables[[0, 1, 2, 5]].isnan().all()


@pytest.mark.parametrize("backend", ["reference", "native", pytest.param("cpp", marks=needs_cpp)])
def test_agrees_with_torchs_instance_norm_and_gelu(backend: str) -> None:
    x = random_arguments((2, 8, 6, 7), torch.float32, residual=False)[0]
    assert x is not None
    weight, bias = torch.rand(8) + 0.5, torch.rand(8)
    expected = F.gelu(F.instance_norm(x, None, None, weight, bias, eps=1e-3), approximate="tanh")
    ours = norm_act(x, weight.expand(2, 8), bias.expand(2, 8), eps=1e-3, backend=backend)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@needs_cpp
def test_gelu_holds_far_from_zero_and_lets_nan_through() -> None:
    z = torch.cat([torch.linspace(-30, 30, 400), torch.tensor([-3e4, 3e4, 1e19, -1e19])])
    x = torch.zeros(1, 1, z.numel())
    one = torch.ones(1, 1)
    residual = z.view(1, 1, -1)
    expected = norm_act_reference(x.double(), one.double(), one.double() * 0, residual.double())
    ours = norm_act(x, one, one * 0, residual, backend="cpp")
    # exp and division to a few units in the last place; the tail below -6 is under 1e-8.
    torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=1e-9)
    residual[0, 0, 5] = torch.nan
    for dtype in DTYPES:
        y = norm_act(x.to(dtype), one, one * 0, residual.to(dtype), backend="cpp")
        assert y.isnan().nonzero().tolist() == [[0, 0, 5]]


@needs_cpp
def test_a_large_mean_does_not_spoil_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 50, 50, generator=generator).double() + 1e4
    x = x.float()
    one, zero = torch.ones(1, 4), torch.zeros(1, 4)
    exact = norm_act_reference(x.double(), one.double(), zero.double(), activation=False)
    ours = norm_act(x, one, zero, activation=False, backend="cpp")
    # The mean itself is rounded to 1e-3 of the standard deviation.
    torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-3)


@needs_cpp
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_a_well_formed_operator(residual: bool, dtype: torch.dtype) -> None:
    arguments = random_arguments((2, 4, 3, 5), dtype, residual=residual)
    arguments = [None if a is None else a.requires_grad_() for a in arguments]
    torch.library.opcheck(_norm_act, (*arguments, True, 1e-6))


@needs_cpp
def test_compiled_full_graph_equals_eager() -> None:
    arguments = random_arguments((2, 4, 3, 5), torch.bfloat16, residual=True)
    compiled = torch.compile(lambda *a: 2 * norm_act(*a), fullgraph=True, backend="aot_eager")
    leaves = [[a.clone().requires_grad_() for a in arguments if a is not None] for _ in range(2)]
    for run, inputs in ((compiled, leaves[0]), (lambda *a: 2 * norm_act(*a), leaves[1])):
        run(*inputs).float().square().sum().backward()
    for left, right in zip(*leaves, strict=True):
        torch.testing.assert_close(left.grad, right.grad)


@pytest.mark.parametrize("backend", ["native", pytest.param("cpp", marks=needs_cpp)])
def test_keeps_two_activations_in_half_precision(backend: str) -> None:
    """native: x and what goes into GELU; cpp: x and the residual, which are the arguments."""
    arguments = random_arguments((2, 4, 16, 16), torch.bfloat16, residual=True)
    leaves = [a.requires_grad_() for a in arguments if a is not None]
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        norm_act(*leaves, backend=backend)
    large = [tensor for tensor in kept if tensor.numel() >= leaves[0].numel()]
    assert len({tensor.data_ptr() for tensor in large}) <= 2
    assert all(tensor.dtype == torch.bfloat16 for tensor in large)


def test_native_has_the_dtype_of_x_under_autocast_and_when_compiled() -> None:
    arguments = random_arguments((2, 4, 3, 5), torch.bfloat16, residual=True)
    native = functools.partial(norm_act, backend="native")
    expected = native(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert native(*arguments).equal(expected)
    compiled = torch.compile(native, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), expected)


def test_other_dtypes_take_torchs_layers() -> None:
    for dtype in (torch.float64, torch.float16):
        arguments = random_arguments((2, 3, 4, 5), dtype, residual=False)
        if dtype == torch.float64:
            arguments = [None if a is None else a.double() for a in arguments]
        x, weight, bias, _ = arguments
        assert x is not None and weight is not None and bias is not None
        y = norm_act(x, weight, bias)
        assert y.dtype == dtype
        assert y.equal(norm_act(x, weight, bias, backend="native"))
        with pytest.raises((ValueError, RuntimeError), match="backend='cpp'"):
            norm_act(x, weight, bias, backend="cpp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3)}, r"x: expected floating point \(B, C, \*S\)"),
        ({"x": torch.zeros(2, 3, 0)}, "x: expected .* not empty"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, "x: expected floating point"),
        ({"weight": torch.zeros(3)}, r"weight: expected torch.float32 of shape \(2, 3\), got .*"),
        ({"bias": torch.zeros(2, 3).double()}, "bias: expected torch.float32 .* torch.float64"),
        ({"residual": torch.zeros(2, 3, 5)}, r"residual: expected .* \(2, 3, 4\), got"),
        ({"backend": "gpu"}, r"backend: expected one of \('auto', .*\), got 'gpu'"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {
        "x": torch.zeros(2, 3, 4),
        "weight": torch.zeros(2, 3),
        "bias": torch.zeros(2, 3),
        "residual": None,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        norm_act(**arguments)


@needs_cpp
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4, 3, dtype=torch.int32)}, "x: expected dtype float32 or bfloat16"),
        ({"x": torch.zeros(2, 3, 4).mT}, "x: expected a contiguous tensor"),
        ({"weight": torch.zeros(2, 4)}, "weight: expected float32 values"),
        ({"residual": torch.zeros(2, 4, 4)}, "residual: expected shape and dtype of x"),
        ({"y": torch.zeros(2, 4, 3).bfloat16()}, "y: expected shape and dtype of x"),
        ({"moments": torch.zeros(2, 3)}, "moments: expected float32 values"),
    ],
)
def test_the_extension_checks_what_it_writes_to(change: dict[str, Tensor], message: str) -> None:
    tensors = {
        "x": torch.zeros(2, 4, 3),
        "weight": torch.zeros(2, 3),
        "bias": torch.zeros(2, 3),
        "residual": torch.zeros(2, 4, 3),
        "y": torch.zeros(2, 4, 3),
        "moments": torch.zeros(2, 2, 3),
        **change,
    }
    capsules = {name: _ext.capsule(tensor) for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=message):
        _ext.C.norm_act_forward_cpu(**capsules, activation=True, eps=1e-6, num_threads=1)
