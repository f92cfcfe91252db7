from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import recycleseg as rs
from recycleseg import _ext
from recycleseg.ops import overlap_counts
from recycleseg.ops._vote_run import VoteSettings
from recycleseg.ops.ensemble_vote import EnsembleVote, ensemble_vote

SHAPES = [(1, 3), (2, 3, 5), (1, 1, 17, 3), (2, 5, 3, 5, 7), (1, 4, 130, 31), (3, 2, 1, 1, 1)]
EVERYTHING = {
    "return_probs": True,
    "return_entropy": True,
    "return_mutual_information": True,
    "return_vote_share": True,
}
needs_cpp = pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")
needs_gpu = pytest.mark.skipif(
    not (_ext.HAS_CUDA and torch.cuda.is_available()),
    reason="needs an NVIDIA GPU and an extension built for CUDA",
)
COMPILED = [
    pytest.param("cpp", "cpu", marks=needs_cpp),
    pytest.param("cuda", "cuda", marks=[pytest.mark.gpu, needs_gpu]),
]
BACKENDS = [pytest.param("reference", "cpu"), *COMPILED]


def random_members(shape: tuple[int, ...], source: str, seed: int, count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if source == "label":
        size = (count, shape[0], *shape[2:])
        return list(torch.randint(shape[1], size, generator=generator).unbind(0))
    logits = 3 * torch.randn(count, *shape, generator=generator)
    return list((logits if source == "logits" else logits.softmax(2)).unbind(0))


def random_ref(shape: tuple[int, ...], exclusive: bool, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if exclusive:
        return torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return torch.rand(shape, generator=generator) > 0.5


def assert_same(result: EnsembleVote, expected: EnsembleVote) -> None:
    """Labels and counts exactly; the rest to some float32 rounding of sums of 5 members and of
    differences of entropies, which are of order 1."""
    for name, x, y in zip(EnsembleVote._fields, result, expected, strict=True):
        assert (x is None) == (y is None), name
        if x is not None and y is not None:
            exact = not x.is_floating_point()
            torch.testing.assert_close(
                x.cpu(), y.cpu(), rtol=0 if exact else 2e-6, atol=0 if exact else 3e-6, msg=name
            )


CASES = [
    (source, method, exclusive)
    for source in ("probs", "logits", "label")
    for method in ("mean", "majority", "max")
    for exclusive in (True, False)
    if source != "label" or (method != "max" and exclusive)
]


@pytest.mark.parametrize(("backend", "device"), COMPILED)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("source", "method", "exclusive"), CASES)
def test_matches_the_reference(
    source: str,
    method: str,
    exclusive: bool,
    shape: tuple[int, ...],
    streamed: bool,
    backend: str,
    device: str,
) -> None:
    members = [x.to(device) for x in random_members(shape, source, seed=0)]
    options: dict[str, Any] = dict(
        source_type=source,
        method=method,
        exclusive=exclusive,
        num_classes=shape[1],
        ref=random_ref(shape, exclusive, seed=1).to(device),
        weights=None if method == "max" else [1.0, 0.5, 2.0, 0.0, 1.5],
        thresholds=[0.3 + 0.1 * c for c in range(shape[1])],
        **EVERYTHING,
    )
    expected = ensemble_vote(members, backend="reference", **options)
    given_members = iter(members) if streamed else members
    assert_same(ensemble_vote(given_members, backend=backend, **options), expected)


@pytest.mark.parametrize(("backend", "device"), COMPILED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "expanded"])
def test_plain_label_in_any_dtype_and_layout(
    layout: str, dtype: torch.dtype, backend: str, device: str
) -> None:
    members = torch.stack(random_members((2, 6, 9, 40, 13), "probs", seed=2)).to(device, dtype)
    members[0, :, :, 0] = torch.finfo(dtype).smallest_normal / 4  # subnormal
    members[1:, :, :, 0] = 0
    if layout == "channels_last":
        members = members.movedim(2, -1).contiguous().movedim(-1, 2)
    elif layout == "strided":
        members = members[..., ::2, :].mT
    elif layout == "expanded":
        members = members[:, :1].expand(-1, 2, -1, -1, -1, -1)
    label = ensemble_vote(members, backend=backend)
    assert isinstance(label, Tensor)
    assert label.dtype == torch.uint8
    total = torch.zeros_like(members[0].float())
    for member in members.float():
        total += member
    assert torch.equal(label.long(), total.argmax(1))


@needs_cpp
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_precision_value_is_read_exactly(dtype: torch.dtype) -> None:
    words = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    result = ensemble_vote([words[None, None]], return_probs=True, validate=False, backend="cpp")
    torch.testing.assert_close(
        result.probs, words[None, None].float(), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_entropies_match_scipy(backend: str, device: str) -> None:
    members = random_members((1, 7, 40), "logits", seed=3)
    result = ensemble_vote(
        [x.to(device) for x in members], source_type="logits", backend=backend, **EVERYTHING
    )
    probs = np.stack([scipy.special.softmax(x[0].double().numpy(), axis=0) for x in members])
    of_mean = scipy.stats.entropy(probs.mean(0), axis=0)
    mutual = of_mean - scipy.stats.entropy(probs, axis=1).mean(0)
    # float32 sums of 7 numbers of order 1
    np.testing.assert_allclose(result.entropy.cpu()[0], of_mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.mutual_information.cpu()[0], mutual, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.probs.cpu()[0], probs.mean(0), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_majority_matches_scipys_mode(backend: str, device: str) -> None:
    labels = random_members((1, 4, 500), "label", seed=4, count=6)  # with many ties
    expected = scipy.stats.mode(torch.stack(labels).numpy(), axis=0)  # the smallest of the modes
    result = ensemble_vote(
        [x.to(device) for x in labels],
        source_type="label",
        method="majority",
        num_classes=4,
        return_vote_share=True,
        backend=backend,
    )
    np.testing.assert_array_equal(result.label.cpu(), expected.mode)
    np.testing.assert_allclose(result.vote_share.cpu(), expected.count / 6, rtol=1e-6)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("method", ["mean", "majority", "max"])
def test_ties_go_to_the_lowest_class(method: str, backend: str, device: str) -> None:
    members = torch.full((2, 1, 4, 33), 0.25, device=device)
    assert ensemble_vote(members, method=method, backend=backend).sum() == 0
    members[0, :, 3] = members[1, :, 1] = 0.5
    label = ensemble_vote(members, method=method, backend=backend)
    assert torch.equal(label, torch.ones_like(label))
    halves = torch.full((2, 1, 1, 33), 0.5, device=device)
    on = ensemble_vote(halves, method=method, exclusive=False, backend=backend)
    assert torch.equal(on, torch.ones_like(on))  # at the threshold
    halves[0] = 0
    split = ensemble_vote(halves, method="majority", exclusive=False, backend=backend)
    assert split.sum() == 0  # half of the weight is not more than half


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("num_classes", [1, 256, 257, 300])
@pytest.mark.parametrize("source", ["logits", "label"])
def test_many_classes(source: str, num_classes: int, backend: str, device: str) -> None:
    members = random_members((1, num_classes, 50), source, seed=5)
    label = ensemble_vote(
        [x.to(device) for x in members],
        source_type=source,
        num_classes=num_classes,
        backend=backend,
    )
    assert label.dtype == (torch.int16 if num_classes > 256 else torch.uint8)
    if source == "label":
        expected = scipy.stats.mode(torch.stack(members).numpy(), axis=0).mode
    else:
        expected = torch.stack(members).double().softmax(2).mean(0).argmax(1)
    np.testing.assert_array_equal(label.cpu(), expected)


@pytest.mark.parametrize(("backend", "device"), COMPILED)
def test_many_members(backend: str, device: str) -> None:
    members = [x.to(device) for x in random_members((1, 3, 40), "probs", seed=6, count=70)]
    expected = ensemble_vote(members, backend="reference", **EVERYTHING)
    assert torch.equal(ensemble_vote(members, backend=backend, **EVERYTHING).label, expected.label)


@needs_cpp
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_share_the_voxels(num_threads: int) -> None:
    shape = (2, 3, 401, 399)
    members, ref = random_members(shape, "probs", seed=7), random_ref(shape, True, seed=8)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        result = ensemble_vote(members, ref=ref, backend="cpp")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result.label, ensemble_vote(members, backend="reference"))
    assert torch.equal(result.counts, overlap_counts(result.label, ref, 3))


@needs_cpp
def test_python_threads_may_call_at_once() -> None:
    cases = [random_members((1, 4, 50, 61), "logits", seed) for seed in range(12)]

    def vote(members: list[Tensor], backend: str = "cpp") -> Tensor:
        return ensemble_vote(members, source_type="logits", method="majority", backend=backend)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(vote, cases))
    for members, label in zip(cases, results, strict=True):
        assert torch.equal(label, vote(members, "reference"))


@needs_cpp
def test_members_are_read_one_at_a_time() -> None:
    alive: list[int] = []

    def make() -> Iterator[Tensor]:
        for member in random_members((1, 3, 50), "probs", seed=9):
            copy = member.clone()
            alive.append(copy.data_ptr())
            yield copy
            del copy

    expected = ensemble_vote(random_members((1, 3, 50), "probs", seed=9))
    assert torch.equal(ensemble_vote(make()), expected)
    assert len(alive) == 5


def test_takes_arrays_and_stays_out_of_them() -> None:
    members = np.random.default_rng(0).random((3, 1, 4, 6, 5), dtype=np.float32)
    members.flags.writeable = False
    label = rs.ensemble_vote(members, method="mean")
    np.testing.assert_array_equal(label, members.sum(0).argmax(1))
    assert torch.equal(rs.ensemble_vote(list(members)), label)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_opcheck(backend: str, device: str) -> None:
    members = [x.to(device) for x in random_members((2, 3, 5, 4), "probs", seed=10)]
    ref = random_ref((2, 3, 5, 4), True, seed=11).to(device)
    op = torch.ops.recycleseg.ensemble_vote.default
    for wanted in ([False] * 4, [True] * 4):
        settings = [0, 0, True, 3, *wanted, True]
        arguments = (members, [1.0] * 5, [], ref, settings, backend)
        assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize(("backend", "device"), COMPILED)
def test_opcheck_of_the_running_sums(backend: str, device: str) -> None:
    member = random_members((2, 3, 5, 4), "probs", seed=10)[0].to(device)
    state = torch.zeros(2, 3, 32, device=device)
    invalid = torch.zeros(2, 2, dtype=torch.int64, device=device)
    settings = [0, 0, True, 3, *[False] * 4, True]
    begin = (member, [2, 3, 5, 4], settings)
    add = (state, invalid, member, 1.0, [], settings)
    ops = torch.ops.recycleseg
    assert set(torch.library.opcheck(ops.ensemble_vote_begin.default, begin).values()) == {
        "SUCCESS"
    }
    assert set(torch.library.opcheck(ops.ensemble_vote_add.default, add).values()) == {"SUCCESS"}
    finish = (state, invalid, [5, 4], [1.0], [], None, settings)
    results = torch.library.opcheck(ops.ensemble_vote_finish.default, finish)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_compiled_without_graph_breaks_equals_eager(backend: str, device: str) -> None:
    def combine(members: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        result = ensemble_vote(
            [x.softmax(1) for x in members], return_entropy=True, backend=backend
        )
        return result.label, result.entropy

    members = [x.to(device) for x in random_members((2, 3, 7, 6), "logits", seed=12)]
    label, entropy = torch.compile(combine, fullgraph=True)(members)
    expected_label, expected_entropy = combine(members)
    assert torch.equal(label, expected_label)
    # torch.compile's softmax rounds differently
    torch.testing.assert_close(entropy, expected_entropy, rtol=1e-5, atol=1e-6)


@needs_cpp
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_reading_one_by_one_equals_eager(dynamic: bool) -> None:
    compiled = torch.compile(lambda x: ensemble_vote(iter(x)), fullgraph=True, dynamic=dynamic)
    for size in (7, 19):
        members = random_members((2, 3, size, 6), "probs", seed=14)
        assert torch.equal(compiled(members), ensemble_vote(members))


@needs_cpp
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_any_case_matches_the_reference(data: Any) -> None:
    source, method, exclusive = data.draw(st.sampled_from(CASES))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=5)))
    count = data.draw(st.integers(1, 4))
    members = random_members(shape, source, data.draw(st.integers(0, 99)), count)
    options: dict[str, Any] = dict(
        source_type=source,
        method=method,
        exclusive=exclusive,
        num_classes=shape[1],
        thresholds=data.draw(st.floats(0.0, 1.0)),
        **{name: data.draw(st.booleans()) for name in EVERYTHING},
    )
    if method != "max":
        options["weights"] = [data.draw(st.integers(1, 4)) for _ in members]
    if data.draw(st.booleans()):
        options["ref"] = random_ref(shape, exclusive, seed=13)
    expected = ensemble_vote(members, backend="reference", **options)
    streamed = data.draw(st.booleans())
    result = ensemble_vote(iter(members) if streamed else members, backend="cpp", **options)
    if isinstance(expected, Tensor):
        assert torch.equal(result, expected)
    else:
        assert_same(result, expected)


PROBS = torch.full((2, 1, 3, 20), 1 / 3)
LABELS = torch.zeros(2, 1, 20, dtype=torch.int16)


def changed(x: Tensor, value: float, number: int = 1) -> Tensor:
    x = x.clone()
    x.view(-1)[7 : 7 + number] = value
    return x


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        (changed(PROBS, math.nan), {}, "members: expected probabilities, .* magnitude of nan"),
        (changed(PROBS, -3.5), {"method": "max"}, "members: expected probab.*magnitude of 3.5"),
        (changed(PROBS, 2), {"method": "majority"}, "members: .*say source_type='logits'"),
        (changed(PROBS, math.nan), {"source_type": "logits"}, "members: expected logits .*nan"),
        (changed(PROBS, math.inf), {"source_type": "logits"}, "members: expected logits .*inf"),
        (PROBS * -math.inf, {"source_type": "logits"}, "members: expected logits .* got nan"),
        (changed(PROBS, math.nan), {"exclusive": False}, "members: expected prob.* nan"),
        (
            changed(LABELS, -1, 2),
            {"source_type": "label", "num_classes": 3},
            r"members: expected class labels in \[0, 3\), got -1 \(2 voxels",
        ),
        (
            PROBS,
            {"ref": changed(LABELS[0], 3)},
            r"ref: expected class labels in \[0, 3\), got 3 \(1 voxels|pred|ref",
        ),
    ],
)
def test_bad_values_are_found(
    members: Tensor,
    options: dict[str, Any],
    message: str,
    streamed: bool,
    backend: str,
    device: str,
) -> None:
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    given_members = members.to(device)
    with pytest.raises(ValueError, match=message):
        ensemble_vote(
            iter(given_members) if streamed else given_members, backend=backend, **options
        )


def test_a_class_may_be_ruled_out_by_its_logit() -> None:
    logits = torch.zeros(2, 1, 3, 20)
    logits[:, :, 0] = -math.inf
    result = ensemble_vote(logits, source_type="logits", **EVERYTHING)
    assert torch.equal(result.label, torch.ones_like(result.label))
    torch.testing.assert_close(result.entropy, torch.full((1, 20), math.log(2)))


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, "members: expected at least one, got none"),
        (iter([]), {}, "members: expected at least one, got none"),
        (PROBS[:0], {}, "members: expected at least one, got none"),
        (torch.tensor(1.0), {}, r"members: expected \(K, ...\) or a sequence, got a scalar"),
        ([3], {}, "members: expected tensors or arrays, got int"),
        (PROBS.double(), {}, "members: expected dtype float32, bfloat16, float16, got .*float64"),
        (PROBS[..., :0], {}, r"members: expected at least one voxel, got shape \(1, 3, 0\)"),
        ([PROBS[0, 0, 0]], {}, r"members: expected shape \(B, C, \*S\), got \(20,\)"),
        ([PROBS[0], PROBS[0, :, :2]], {}, r"expected the shape of the first, \(1, 3, 20\), got"),
        (iter([PROBS[0], PROBS[0, :, :2]]), {}, r"expected the shape of the first, \(1, 3, 20\)"),
        ([PROBS[0], PROBS[0].half()], {}, "expected the dtype of the first, .*32, got .*16"),
        ([PROBS[0], PROBS[0].to("meta")], {}, "expected the device of the first, cpu, got meta"),
        (PROBS, {"source_type": "p"}, r"source_type: expected one of .*, got 'p'"),
        (PROBS, {"method": "median"}, r"method: expected one of .*, got 'median'"),
        (PROBS, {"num_classes": 4}, "num_classes: expected 3, that of members, got 4"),
        (LABELS, {"source_type": "label"}, "num_classes: expected an int for labels, got None"),
        (
            LABELS,
            {"source_type": "label", "num_classes": 5000},
            "num_classes: expected 1 to 4096, got 5000",
        ),
        (
            LABELS,
            {"source_type": "label", "num_classes": 2, "method": "max"},
            "method: expected 'mean' or 'majority' for labels",
        ),
        (
            LABELS,
            {"source_type": "label", "num_classes": 2, "exclusive": False},
            "exclusive: expected True for labels",
        ),
        (PROBS, {"weights": [1.0]}, "weights: expected 2, got 1"),
        (iter(PROBS), {"weights": [1.0]}, "weights: expected one for each member, got 1 for more"),
        (iter(PROBS), {"weights": [1.0] * 3}, "weights: expected 2, one for each member, got 3"),
        (PROBS, {"weights": [1.0, -1.0]}, "weights: expected >= 0 and not all 0, got"),
        (PROBS, {"weights": [0.0, 0.0]}, "weights: expected >= 0 and not all 0, got"),
        (PROBS, {"weights": [1.0, math.nan]}, "weights: expected finite numbers"),
        (PROBS, {"weights": [1.0, 1j]}, r"weights: expected numbers, got \[1.0, 1j\]"),
        (PROBS, {"weights": [1.0, None]}, r"weights: expected numbers, got \[1.0, None\]"),
        (iter(PROBS), {"weights": 1.0}, "weights: expected 1, one for each member, got a number"),
        ([np.array([[{}]])], {}, "members: expected numbers, got dtype object"),
        ([np.array([["a"]])], {}, "members: expected numbers, got dtype <U1"),
        (PROBS.to(torch.complex64), {}, "members: expected dtype float32, .*, got torch.complex64"),
        (
            PROBS.double(),
            {},
            "members: expected dtype float32, .*, got torch.float64",
        ),
        (LABELS, {}, "members: expected dtype float32, .*, got torch.int16"),
        (PROBS, {"ref": np.array([[{}]])}, "ref: expected numbers, got dtype object"),
        (PROBS, {"weights": [1, 1], "method": "max"}, "weights: expected none for method='max'"),
        (PROBS, {"thresholds": [0.5], "exclusive": False}, "thresholds: expected 3, got 1"),
        (PROBS, {"ref": PROBS[0, 0]}, "ref: expected dtype bool, .*, got torch.float32"),
        (PROBS, {"ref": LABELS[0, :, :3]}, r"ref: expected shape \(1, 20\), got \(1, 3\)"),
        (PROBS, {"backend": "gpu"}, r"backend: expected one of \('auto', "),
    ],
)
def test_bad_arguments_are_named(members: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ensemble_vote(members, **options)


@needs_cpp
@pytest.mark.parametrize(
    ("asked", "arguments", "tensors", "message"),
    [
        ({"num_classes": 0}, {}, {}, "num_classes: expected 1 to 4096"),
        ({"num_classes": 2}, {}, {}, r"members: expected one shape \(B, C, V\)"),
        ({"exclusive": 0}, {}, {}, "thresholds, invalid, label, counts: one is missing"),
        ({"method": 5}, {}, {}, "source, method: expected a pair"),
        ({}, {"weights": []}, {}, "weights: expected one for each member"),
        ({}, {"members": [PROBS[0], PROBS[0, ..., 1:]]}, {}, "weights: expected one for each"),
        (
            {},
            {"members": [PROBS[0], PROBS[0, ..., 1:]], "weights": [1.0, 1.0]},
            {},
            r"members: expected one shape \(B, C, V\)",
        ),
        ({}, {"members": []}, {}, "members: expected at least one, got none"),
        ({}, {}, {"label": torch.zeros(1, 19, dtype=torch.uint8)}, "label: expected another shape"),
        ({}, {}, {"label": torch.zeros(1, 20)}, "label: expected another shape or dtype"),
        ({"probs": 1}, {}, {"probs": torch.zeros(1, 3, 19)}, "probs: expected another shape"),
        ({}, {}, {"probs": torch.zeros(1, 3, 20)}, "probs: expected with the label, where"),
        ({}, {}, {"entropy": torch.zeros(1, 20)}, "entropy: expected with the label, where"),
        ({"share": 1}, {}, {}, "share: expected with the label, where"),
        ({}, {}, {"state": torch.zeros(1, 3, 20)}, "state: expected another shape"),
        ({}, {}, {"invalid": None}, "thresholds, invalid, label, counts: one is missing"),
    ],
)
def test_the_extension_checks_what_it_writes_to(
    asked: dict[str, int],
    arguments: dict[str, Any],
    tensors: dict[str, Tensor | None],
    message: str,
) -> None:
    views: dict[str, Tensor | None] = dict.fromkeys(
        ("thresholds", "state", "probs", "entropy", "mutual_information", "share", "ref", "counts")
    )
    views |= {
        "label": torch.zeros(1, 20, dtype=torch.uint8),
        "invalid": torch.zeros(2, 2, dtype=torch.int64),
    }
    views |= tensors
    settings = VoteSettings(0, 0, 1, 3, 0, 0, 0, 0, 1)._replace(**asked)
    with pytest.raises(ValueError, match=message):
        _ext.C.ensemble_vote_cpu(
            settings,
            [_ext.capsule(x) for x in arguments.get("members", [PROBS[0]])],
            arguments.get("weights", [1.0]),
            {k: None if x is None else _ext.capsule(x) for k, x in views.items()},
            1,
        )


@needs_cpp
def test_the_extension_says_what_it_keeps_and_what_fits_a_gpu() -> None:
    """Rows of C numbers for the sums of each kind, and one number for the members' entropies."""
    plain = VoteSettings(0, 0, 1, 30, 0, 0, 0, 0, 1)
    everything = plain._replace(probs=1, entropy=1, mutual_information=1, share=1)
    rows = lambda settings: _ext.C.vote_state_shape(settings, 33)  # noqa: E731
    assert rows(plain) == (30, 48)
    assert rows(plain._replace(method=2, share=1)) == (60, 48)
    assert rows(everything) == (61, 48)
    assert rows(everything._replace(exclusive=0)) == (90, 48)
    assert rows(everything._replace(source=2)) == (30, 48)
    fits = _ext.C.ensemble_vote_fits_gpu
    assert fits(plain, 64, False) and not fits(plain, 65, False)
    # Each row is 512 bytes of the 48 KiB of shared memory; a softmax takes one for each class.
    logits = plain._replace(source=1)
    assert fits(logits._replace(num_classes=48), 1, False)
    assert not fits(logits._replace(num_classes=49), 1, False)
    assert fits(logits._replace(num_classes=96), 1, True)
    assert not fits(logits._replace(num_classes=97), 1, True)
    assert fits(plain._replace(num_classes=96), 1, False)
    assert not fits(plain._replace(num_classes=97), 1, False)
    assert fits(plain._replace(num_classes=4096), 1, True)
