"""One segmentation from those of several members, with its uncertainty, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops import _vote_checks
from recycleseg.ops._arrays import as_tensor
from recycleseg.ops._backend import resolve_backend
from recycleseg.ops._vote_run import (
    METHODS,
    SOURCES,
    Outputs,
    Sums,
    VoteSettings,
    count,
    empty_outputs,
    no_sums,
    nothing,
    raise_if_invalid,
    run,
    zero_sums,
)


class EnsembleVote(NamedTuple):
    """What :func:`ensemble_vote` returns where more than the label is asked for; None: was not."""

    label: Tensor
    probs: Tensor | None
    entropy: Tensor | None
    mutual_information: Tensor | None
    vote_share: Tensor | None
    counts: Tensor | None


def ensemble_vote(
    members: Any,
    *,
    source_type: str = "probs",
    method: str = "mean",
    exclusive: bool = True,
    num_classes: int | None = None,
    weights: Sequence[float] | Tensor | None = None,
    thresholds: float | Sequence[float] | Tensor = 0.5,
    return_probs: bool = False,
    return_entropy: bool = False,
    return_mutual_information: bool = False,
    return_vote_share: bool = False,
    ref: Any = None,
    validate: bool = True,
    backend: str = "auto",
) -> Tensor | EnsembleVote:
    """Combine the predictions of K members, reading each once.

    With p_k(c) the probability that member k gives class c at a voxel, w_k its weight and
    W = sum_k w_k, the score of a class is

        mean:      sum_k w_k p_k(c) / W
        majority:  sum_k w_k [k votes for c] / W,  k votes for the class of largest p_k
        max:       max_k p_k(c)

    and the label is the class of the largest score. Ties, of float32 scores as of a member's own
    classes, go to the lowest class index.

    Where classes overlap (exclusive=False), the result is a mask: class c is on where its score is
    >= its threshold; for "majority", k votes for c where p_k(c) >= the threshold, and c is on where
    more than half of the weight votes for it.

    Args:
        members: a list or tuple of K members, or a tensor (K, ...) of them: read voxel by voxel
            over all members. Any other iterable is read member by member, so that one is in memory
            at a time. A member is (B, C, *S) float32, bfloat16 or float16, in any memory layout
            (fastest: contiguous; a copy is made where the spatial axes have no single stride), or
            for "label" (B, *S) bool, uint8, int16, int32 or int64. NumPy arrays, and what has
            `__dlpack__`, are taken too, but no masked arrays. All of one shape, dtype and device.
        source_type: "probs"; "logits", of which the softmax over C is taken, where classes overlap
            the sigmoid; "label": maps of classes, for which "mean" and "majority" are one.
        method: "mean", "majority" or "max" (not for "label").
        exclusive: whether a voxel has one class.
        num_classes: C, up to 4096; needed for "label" only.
        weights: one for each member, finite, >= 0, not all 0; default 1. Not for "max".
        thresholds: of exclusive=False: one, or one for each class.
        return_probs: the scores, (B, C, *S) float32.
        return_entropy: -sum_c q log q in nats of the mean q = sum_k w_k p_k / W, whatever the
            method; where classes overlap that of (q, 1 - q) for each class. A label map counts as
            p_k in {0, 1}.
        return_mutual_information: entropy of the mean less the weighted mean of the members'
            entropies, in nats: what members disagree about (BALD; Houlsby et al.,
            arXiv 1112.5745).
        return_vote_share: weight fraction of the members whose own vote is the result.
        ref: a reference label (B, *S), where classes overlap masks (B, C, *S), nonzero is inside.
        validate: raise for values that are no probabilities (NaN, or a magnitude over 1.01), for
            logits that are NaN, inf or all -inf, and for labels out of range. They are looked for
            in the pass itself; on a GPU the call then waits for the result. Never looked for: that
            probabilities add up to 1. Without it such labels count for nothing.
        backend: "cpp" (threads: `torch.get_num_threads()`), "cuda", "reference" or "auto", the best
            that was built. The reference holds all members.

    Returns:
        The label, (B, *S) uint8 (int16 where C > 256), where classes overlap the mask (B, C, *S)
        uint8, if nothing else is asked for; else an :class:`EnsembleVote` with the label and
        `probs`, `entropy`, `mutual_information`, `vote_share` (the last three float32 of the
        label's shape) and `counts`, int64 (B, C, 3): true positives, predicted and true voxels as
        in :func:`overlap_counts`, on the CPU counted in the same pass.

    Memory beyond input and output: on a CPU about 0.5 MB a thread, on a GPU nothing. For members
    read one by one (and on a GPU with more than 64 members, or with more classes than shared memory
    holds) a running sum of 4 C bytes a voxel, twice that where a method's scores are not those of
    the uncertainty asked for.

    Raises:
        ValueError: an argument does not meet its description.
        RuntimeError: the backend was not built.
    """
    _vote_checks.choices(source_type, method, exclusive, num_classes)
    if hasattr(members, "ndim"):
        members = _vote_checks.unstacked(members)
    elif not isinstance(members, Iterable) or isinstance(members, (str, bytes)):
        raise ValueError(
            "members: expected an array (K, ...) or an iterable of arrays, got "
            f"{type(members).__name__}"
        )
    listed = isinstance(members, (list, tuple))
    if weights is not None and method == "max":
        raise ValueError("weights: expected none for method='max', which does not weigh, got some")
    iterator = (as_tensor("members", member) for member in members)
    first = next(iterator, None)
    if first is None:
        raise ValueError("members: expected at least one, got none")
    shape = _vote_checks.first(first, source_type, num_classes)
    limits = [] if exclusive else _vote_checks.numbers("thresholds", thresholds, shape[1])
    reference = _vote_checks.ref(ref, shape, exclusive, first.device)
    wanted = (return_probs, return_entropy, return_mutual_information, return_vote_share)
    resolved = resolve_backend(backend, first.device)
    settings = VoteSettings(
        source=SOURCES.index(source_type),
        method=METHODS.index(method),
        exclusive=int(exclusive),
        num_classes=shape[1],
        probs=int(return_probs),
        entropy=int(return_entropy),
        mutual_information=int(return_mutual_information),
        share=int(return_vote_share),
        validate=int(validate),
    )
    if listed or resolved == "reference":
        rest = list(iterator)
        for member in rest:
            _vote_checks.same(member, first)
        own = _vote_checks.weights(weights, 1 + len(rest))
        outputs = _ensemble_vote([first, *rest], own, limits, reference, [*settings], resolved)
    else:
        outputs = _vote_one_by_one(first, iterator, shape, weights, limits, reference, settings)
    label: Tensor = outputs[0]
    if not any(wanted) and ref is None:
        return label
    asked = [*wanted, ref is not None]
    return EnsembleVote(
        label, *(x if is_asked else None for x, is_asked in zip(outputs[1:], asked, strict=True))
    )


def ensemble_vote_reference(
    members: Sequence[Tensor],
    weights: Sequence[float],
    thresholds: Sequence[float],
    ref: Tensor | None,
    settings: VoteSettings,
) -> Outputs:
    """What the registered operation computes, in plain torch, with all members in memory."""
    if settings.validate:
        _vote_checks.values(members, settings)
    limits = torch.tensor(thresholds, device=members[0].device)
    limits = limits.reshape(-1, *[1] * (len(settings.shape_of(members[0])) - 2))
    probs, votes = _probabilities_and_votes(members, limits, settings)

    def weighted(values: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(values[0])
        for weight, value in zip(weights, values, strict=True):
            total = total + weight * value
        return total / sum(weights)

    def entropy_of(p: Tensor) -> Tensor:
        entropy: Tensor = -torch.special.xlogy(p, p)
        other: Tensor = torch.special.xlogy(1 - p, 1 - p)
        return entropy.sum(1) if settings.exclusive else entropy - other

    mean, tally = weighted(probs), weighted(votes)
    score = {"mean": mean, "majority": tally, "max": torch.stack(probs).amax(0)}[
        METHODS[settings.method]
    ]
    if settings.exclusive:
        label = score.argmax(1)
        share = tally.gather(1, label.unsqueeze(1)).squeeze(1)
    else:
        is_majority = METHODS[settings.method] == "majority"
        label = (score > 0.5 if is_majority else score >= limits).long()
        share = torch.where(label > 0, tally, 1 - tally)
    label = label.to(settings.label_dtype())
    entropy = entropy_of(mean).clamp(min=0)
    mutual = (entropy - weighted([entropy_of(p) for p in probs])).clamp(min=0)
    return Outputs(
        label,
        score.contiguous() if settings.probs else nothing(score),
        entropy.contiguous() if settings.entropy else nothing(score),
        mutual.contiguous() if settings.mutual_information else nothing(score),
        share.contiguous() if settings.share else nothing(score),
        nothing(label, torch.int64) if ref is None else count(label, ref, settings),
    )


def _probabilities_and_votes(
    members: Sequence[Tensor], limits: Tensor, settings: VoteSettings
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each member the probabilities and the classes that it votes for, float32 (B, C, *S)."""
    num_classes = settings.num_classes
    if settings.source_type == "label":
        maps = [x.long() for x in members]
        labels = [torch.where((x >= 0) & (x < num_classes), x, num_classes) for x in maps]
        votes = [F.one_hot(x, num_classes + 1)[..., :-1].movedim(-1, 1).float() for x in labels]
        return votes, votes
    wide = [x.float() for x in members]
    probs = wide
    if settings.source_type == "logits":
        probs = [x.softmax(1) if settings.exclusive else x.sigmoid() for x in wide]
    if settings.exclusive:
        winners = [F.one_hot(x.argmax(1), num_classes).movedim(-1, 1) for x in wide]
        return probs, [x.float() for x in winners]
    return probs, [(x >= limits).float() for x in probs]


@torch.library.custom_op("recycleseg::ensemble_vote", mutates_args=())
def _ensemble_vote(
    members: list[Tensor],
    weights: list[float],
    thresholds: list[float],
    ref: Tensor | None,
    settings: list[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    asked = VoteSettings(*settings)
    if backend == "reference":
        return ensemble_vote_reference(members, weights, thresholds, ref, asked)
    shape = asked.shape_of(members[0])
    outputs = empty_outputs(members[0], shape, asked, ref is not None)
    sums, together = no_sums(members[0]), members
    if backend == "cuda" and not _ext.C.ensemble_vote_fits_gpu(asked, len(members), False):
        sums, together = Sums(*zero_sums(members[0], list(shape), settings)), []
        for member, weight in zip(members, weights, strict=True):
            _add_member(*sums, member, weight, thresholds, settings)
    run(asked, thresholds, together, weights, sums, ref, outputs)
    raise_if_invalid(sums.invalid, asked)
    return outputs


@_ensemble_vote.register_fake
def _(
    members: list[Tensor],
    weights: list[float],
    thresholds: list[float],
    ref: Tensor | None,
    settings: list[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    asked = VoteSettings(*settings)
    return empty_outputs(members[0], asked.shape_of(members[0]), asked, ref is not None)


# An operation because torch.compile cannot look into the extension, which knows the state's shape.
_begin = torch.library.custom_op("recycleseg::ensemble_vote_begin", zero_sums, mutates_args=())
_begin.register_fake(zero_sums)


@torch.library.custom_op("recycleseg::ensemble_vote_add", mutates_args=("state", "invalid"))
def _add_member(
    state: Tensor,
    invalid: Tensor,
    member: Tensor,
    weight: float,
    thresholds: list[float],
    settings: list[int],
) -> None:
    """Add one member to the state (B, rows, length) float32, by the backend of its device."""
    asked = VoteSettings(*settings)
    if member.is_cuda and not _ext.C.ensemble_vote_fits_gpu(asked, 1, True):
        member, asked = member.float().softmax(1), asked._replace(source=SOURCES.index("probs"))
    run(asked, thresholds, [member], [weight], Sums(state, invalid), None, None)


@_add_member.register_fake
def _(
    state: Tensor,
    invalid: Tensor,
    member: Tensor,
    weight: float,
    thresholds: list[float],
    settings: list[int],
) -> None:
    return None


@torch.library.custom_op("recycleseg::ensemble_vote_finish", mutates_args=())
def _finish(
    state: Tensor,
    invalid: Tensor,
    spatial: list[int],
    weights: list[float],
    thresholds: list[float],
    ref: Tensor | None,
    settings: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The results from the state to which all members were added."""
    asked = VoteSettings(*settings)
    shape = [state.shape[0], asked.num_classes, *spatial]
    outputs = empty_outputs(state, shape, asked, ref is not None)
    sums = Sums(state, invalid.clone())
    run(asked, thresholds, [], weights, sums, ref, outputs)
    raise_if_invalid(sums.invalid, asked)
    return outputs


@_finish.register_fake
def _(
    state: Tensor,
    invalid: Tensor,
    spatial: list[int],
    weights: list[float],
    thresholds: list[float],
    ref: Tensor | None,
    settings: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    asked = VoteSettings(*settings)
    shape = [state.shape[0], asked.num_classes, *spatial]
    return empty_outputs(state, shape, asked, ref is not None)


def _vote_one_by_one(
    first: Tensor,
    rest: Iterable[Tensor],
    shape: Sequence[int],
    weights: Any,
    thresholds: list[float],
    ref: Tensor | None,
    settings: VoteSettings,
) -> tuple[Tensor, ...]:
    """The results of members that are read one by one, so that one is in memory at a time."""
    number = len(weights) if hasattr(weights, "__len__") else 1
    given = None if weights is None else _vote_checks.weights(weights, number)
    sums = _begin(first, list(shape), [*settings])
    used: list[float] = []
    member: Tensor | None = first
    iterator = iter(rest)
    while member is not None:
        _vote_checks.same(member, first)
        if given is not None and len(used) == len(given):
            raise ValueError(
                f"weights: expected one for each member, got {len(given)} for more members"
            )
        used.append(1.0 if given is None else given[len(used)])
        _add_member(*sums, member, used[-1], thresholds, [*settings])
        member = None  # which frees it before the next one is made
        member = next(iterator, None)
    if given is not None and len(used) != len(given):
        raise ValueError(f"weights: expected {len(used)}, one for each member, got {len(given)}")
    outputs: tuple[Tensor, ...] = _finish(
        *sums, list(shape[2:]), used, thresholds, ref, [*settings]
    )
    return outputs
