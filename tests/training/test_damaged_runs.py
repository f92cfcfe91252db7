"""A damaged run: `recycle-train --resume` and `recycle-predict` name the file in one line."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recycleseg.cli.predict import main as predict
from recycleseg.cli.train import main as train
from recycleseg.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

Damage = Callable[[Path], Any]
Tensors = dict[str, Tensor]

HEAD, STEM = "head.bias", "stem.conv.weight"


def rewritten(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change the header of the safetensors format, and leave the data."""

    def changed(content: bytes) -> bytes:
        header, data = parts(content)
        return joined(change(header) or header, data)

    return rewritten(changed)


def with_text(text: str) -> Damage:
    """Put another text in the place of state and checksums."""
    return with_header(lambda header: header.update(__metadata__={"recycleseg": text}))


def of_the_version_before(
    state: Callable[[dict[str, Any]], Any] = lambda _: None,
    tensors: Callable[[Tensors], Any] = lambda _: None,
) -> Damage:
    """Write the file as the version without checksums did, with changes that it could not see."""

    def change(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["recycleseg"].partition(" ")[2])
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        del values["checksums"]
        values["format_version"] = 1
        state(values)
        tensors(content)
        save_file(content, path, metadata={"recycleseg": json.dumps(values)})

    return change


def saved_again(change: Callable[[Tensors], Any]) -> Damage:
    """Other tensors whose checksums are right."""

    def change_all(path: Path) -> None:
        checkpoint = load_checkpoint(path)
        tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
        change(tensors)
        save_checkpoint(path, Checkpoint(tensors, checkpoint.state))

    return change_all


def flipped(name: str, byte: int, bit: int) -> Damage:
    """Flip one bit of the first number of a tensor; little-endian, so byte 3 has the exponent."""

    def flip(content: bytes) -> bytes:
        header, data = parts(content)
        at = header[name]["data_offsets"][0] + byte
        return joined(header, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])

    return rewritten(flip)


def retyped(dtype: torch.dtype) -> Callable[[Tensors], Any]:
    def change(tensors: Tensors) -> None:
        for owner in ("network", "average"):
            tensors[f"{owner}/{HEAD}"] = tensors[f"{owner}/{HEAD}"].to(dtype)

    return change


def of_both(change: Callable[[Tensor], Tensor | None]) -> Callable[[Tensors], Any]:
    """Change a tensor of the weights and of their average; None removes it."""

    def change_both(tensors: Tensors) -> None:
        for name in (f"network/{HEAD}", f"average/{HEAD}"):
            new = change(tensors.pop(name))
            if new is not None:
                tensors[name] = new

    return change_both


def with_value(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[0] = value
        return tensor

    return change


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_link_to_itself(path: Path) -> None:
    path.unlink()
    os.symlink(path.name, path)


def entry(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header[f"average/{HEAD}"]
    return found


# Damage that both commands see, because it is in the weights or in the file as a whole.
OF_THE_FILE: dict[str, Damage] = {
    "no file": Path.unlink,
    "a folder": as_folder,
    "a link to itself": as_link_to_itself,
    "empty": lambda path: path.write_bytes(b""),
    "one byte": rewritten(lambda content: content[:1]),
    "seven bytes": rewritten(lambda content: content[:7]),
    "the length alone": rewritten(lambda content: content[:8]),
    "half a header": rewritten(lambda content: content[:200]),
    "no data": rewritten(lambda content: joined(parts(content)[0], b"")),
    "half the data": rewritten(lambda content: content[: len(content) * 2 // 3]),
    "last byte lost": rewritten(lambda content: content[:-1]),
    "one byte more": rewritten(lambda content: content + b"\0"),
    "zeros": rewritten(lambda content: bytes(len(content))),
    "ones": rewritten(lambda content: b"\xff" * len(content)),
    "noise": rewritten(lambda content: np.random.default_rng(0).bytes(len(content))),
    "text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n" * 9),
    "JSON": lambda path: path.write_text(json.dumps({"step": 1})),
    "gzip": rewritten(gzip.compress),
    "a pickle": lambda path: torch.save({"a": torch.ones(3)}, path),
    "another safetensors file": lambda path: save_file({"a": torch.ones(1)}, path),
    "shifted by a byte": rewritten(lambda content: content[1:]),
    "header longer than the file": rewritten(lambda c: struct.pack("<Q", 2**40) + c[8:]),
    "header of length 0": rewritten(lambda c: struct.pack("<Q", 0) + c[8:]),
    "header of largest length": rewritten(lambda c: b"\xff" * 8 + c[8:]),
    "header is a list": rewritten(lambda c: joined([], parts(c)[1])),
    "header is no UTF-8": rewritten(lambda c: c[:20] + b"\xff\xfe" + c[22:]),
    "header is cut JSON": rewritten(lambda c: c[:8] + b"[" + c[9:]),
    "no metadata": with_header(lambda header: header.pop("__metadata__") and None),
    "metadata of numbers": with_header(lambda header: header.update(__metadata__={"a": 1})),
    "offsets overlap": with_header(lambda h: entry(h).update(data_offsets=[0, 12])),
    "offsets turned": with_header(lambda h: entry(h)["data_offsets"].reverse()),
    "offsets outside": with_header(lambda h: entry(h).update(data_offsets=[10**9, 10**9 + 12])),
    "offsets negative": with_header(lambda h: entry(h).update(data_offsets=[-12, 0])),
    "shape lies": with_header(lambda h: entry(h).update(shape=[4])),
    "shape of another rank": with_header(lambda h: entry(h).update(shape=[3, 1])),
    "shape is huge": with_header(lambda h: entry(h).update(shape=[2**62, 2**62])),
    "unknown dtype": with_header(lambda h: entry(h).update(dtype="F31")),
    "dtype lies: int32": with_header(lambda h: entry(h).update(dtype="I32")),
    "dtype lies: float16": with_header(lambda h: entry(h).update(dtype="F16", shape=[6])),
    "another name": with_header(lambda h: h.update({"network/tail": h.pop(f"network/{HEAD}")})),
    "a name twice": rewritten(lambda c: c.replace(b'"network/stem', b'"average/stem', 1)),
    "state is no JSON": with_text("{"),
    "state is a list": with_text("[]"),
    "state of another checkpoint": with_text('{"format_version": 2, "step": 1, "checksums": {}}'),
    "one digit of the state": rewritten(
        lambda c: c.replace(rb"\"best_dice\": 0", rb"\"best_dice\": 5", 1)
    ),
    "no checksum of the state": rewritten(
        lambda c: re.sub(rb'"recycleseg":"[0-9a-f]{8} \{', rb'"recycleseg":"{         ', c, count=1)
    ),
    "exponent of a weight": flipped(f"average/{HEAD}", 3, 6),
    "lowest bit of a weight": flipped(f"average/{STEM}", 0, 0),
    "sign of a weight": flipped(f"average/{STEM}", 3, 7),
    "bit of the trained weights": flipped(f"network/{HEAD}", 2, 3),
    "NaN": of_the_version_before(tensors=of_both(with_value(math.nan))),
    "huge": of_the_version_before(tensors=of_both(with_value(-1e30))),
    "Inf": of_the_version_before(tensors=of_both(with_value(-math.inf))),
    "another shape": saved_again(of_both(lambda tensor: tensor[:-1].clone())),
    "a missing tensor": saved_again(of_both(lambda _: None)),
    "an extra tensor": saved_again(
        lambda t: t.update({"network/x": torch.ones(1), "average/x": torch.ones(1)})
    ),
    "an unknown owner": saved_again(lambda tensors: tensors.update(extra=torch.ones(1))),
    "int32": saved_again(retyped(torch.int32)),
    "float16": saved_again(retyped(torch.float16)),
    "bfloat16": saved_again(retyped(torch.bfloat16)),
    "float64": saved_again(retyped(torch.float64)),
    "bool": saved_again(retyped(torch.bool)),
    "no tensors": saved_again(dict.clear),
    "version 3": of_the_version_before(lambda state: state.update(format_version=3)),
    "version true": of_the_version_before(lambda state: state.update(format_version=True)),
    "no version": of_the_version_before(lambda state: state.pop("format_version")),
    "no step": of_the_version_before(lambda state: state.pop("step")),
    "step is a text": of_the_version_before(lambda state: state.update(step="12")),
    "step is negative": of_the_version_before(lambda state: state.update(step=-1)),
    "step is a fraction": of_the_version_before(lambda state: state.update(step=1.5)),
    "best_dice is NaN": of_the_version_before(lambda state: state.update(best_dice=math.nan)),
    "best_dice is a list": of_the_version_before(lambda state: state.update(best_dice=[])),
    "average_updates is null": of_the_version_before(lambda s: s.update(average_updates=None)),
}

# Damage that only a run that goes on sees.
OF_THE_STATE: dict[str, Damage] = {
    "no average": saved_again(lambda t: [t.pop(n) for n in [*t] if n.startswith("average/")]),
    "no trained weights": saved_again(lambda t: [t.pop(n) for n in [*t] if n[:3] == "net"]),
    "bit of a moment": flipped(f"optimizer/{STEM}/exp_avg_sq", 2, 7),
    "bit of the optimiser's step": flipped(f"optimizer/{HEAD}/step", 3, 0),
    "a moment is missing": saved_again(lambda t: t.pop(f"optimizer/{HEAD}/exp_avg")),
    "a moment of another shape": saved_again(
        lambda t: t.update({f"optimizer/{HEAD}/exp_avg": torch.ones(5)})
    ),
    "a moment of another dtype": saved_again(
        lambda t: t.update({f"optimizer/{HEAD}/exp_avg": torch.ones(3, dtype=torch.float64)})
    ),
    "a moment of nothing": saved_again(lambda t: t.update({"optimizer/x/step": torch.ones(())})),
    "a moment without name": saved_again(lambda t: t.update({"optimizer/x": torch.ones(())})),
    "a moment is NaN": of_the_version_before(
        tensors=lambda t: t[f"optimizer/{HEAD}/exp_avg"].fill_(math.nan)
    ),
    "time steps that nobody learnt": saved_again(
        lambda t: t.update({"timesteps/loss_sq": torch.ones(4)})
    ),
    "no best_dice": of_the_version_before(lambda state: state.pop("best_dice")),
    "no average_updates": of_the_version_before(lambda state: state.pop("average_updates")),
}
OF_A_TEXT: list[Damage] = [
    as_folder,
    Path.unlink,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff\xfe\x00"),
    lambda path: path.write_text("[1, 2]"),
    lambda path: path.write_text("null"),
    rewritten(lambda content: content[: len(content) // 2] + b"\n{"),
]
OF_THE_DESCRIPTION = [(name, d) for name in ("config.yaml", "dataset.json") for d in OF_A_TEXT]


def with_plan(**changes: Any) -> Damage:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


INTENSITY = {"method": "zscore", "lower": 0.0, "upper": 0.0, "mean": 0.0, "std": 1.0}
PLANS: list[dict[str, Any]] = [
    {"channel_names": 3},
    {"channel_names": [1]},
    {"channel_names": []},
    {"class_names": None},
    {"class_names": ["a", "a", "b"]},
    {"class_names": [["a"], "b", "c"]},
    {"regions": 1},
    {"regions": [[1], ["2"], [3]]},
    {"regions_class_order": [1]},
    {"ignore_label": "4"},
    {"spatial_dims": 4},
    {"spatial_dims": "2"},
    {"spatial_dims": True},
    {"spacing": [1.0]},
    {"spacing": [math.nan, 1.0]},
    {"spacing": [0.0, 1.0]},
    {"spacing": "ab"},
    {"shape": [8.5, 8]},
    {"shape": [-1, 8]},
    {"shape": [8, 10**400]},
    {"patch_size": [8, 10**400]},
    {"patch_size": [2**20, 2**20]},
    {"intensities": {}},
    {"intensities": []},
    {"intensities": [3]},
    {"intensities": [{**INTENSITY, "method": "auto"}]},
    {"intensities": [{**INTENSITY, "method": []}]},
    {"intensities": [{**INTENSITY, "mean": math.nan}]},
    {"intensities": [{**INTENSITY, "std": 0.0}]},
    {"intensities": [{**INTENSITY, "std": "1"}]},
    {"intensities": [{**INTENSITY, "gamma": 1}]},
    {"pixel_size": "some"},
    {"pixel_size": ["auto"]},
    {"kernel": "nearest"},
    {"upright": "yes"},
    {"patch_size": [8]},
    {"patch_size": [8, 0]},
    {"patch_size": [8, "8"]},
    {"patch_size": 8},
    {"patch_size": None},
]


@pytest.fixture
def damaged(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be damaged."""
    ignored = shutil.ignore_patterns("pictures", "tensorboard", "*.png")
    return Path(shutil.copytree(whole_run, tmp_path / "run", ignore=ignored))


@pytest.fixture
def image(disc_dataset: Path) -> Path:
    return disc_dataset / "imagesTr/disc_6_0000.png"


def resume(run: Path) -> int:
    return train(["--config", str(run / "config.yaml"), "--resume", "--out", str(run)])


def predict_with(*runs: Path, image: Path, out: Path) -> int:
    models = [str(run) for run in runs]
    return predict(["-m", *models, "-i", str(image), "-o", str(out), "--device", "cpu"])


def content_of(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def assert_one_line(said: str, command: str, path: Path) -> None:
    (line,) = said.splitlines()
    assert line.startswith(f"{command}: error: ")
    assert str(path) in line
    assert len(line) < 400 + 2 * len(str(path))


@pytest.mark.parametrize("damage", OF_THE_FILE.values(), ids=OF_THE_FILE)
def test_a_damaged_checkpoint_predicts_nothing(
    damaged: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    path = damaged / "checkpoints/best.safetensors"
    damage(path)
    assert predict_with(damaged, image=image, out=tmp_path / "out") == 2
    assert_one_line(capsys.readouterr().err, "recycle-predict", path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage", [*OF_THE_FILE.values(), *OF_THE_STATE.values()], ids=[*OF_THE_FILE, *OF_THE_STATE]
)
def test_a_damaged_checkpoint_trains_nothing(
    damaged: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    path = damaged / "checkpoints/last.safetensors"
    damage(path)
    before = content_of(damaged)
    assert resume(damaged) == 2
    assert_one_line(capsys.readouterr().err, "recycle-train", path)
    assert content_of(damaged) == before


@pytest.mark.parametrize("damage", ["empty", "exponent of a weight", "a folder"])
def test_a_run_with_a_damaged_best_checkpoint_does_not_go_on(
    damaged: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = damaged / "checkpoints/best.safetensors"
    OF_THE_FILE[damage](path)
    assert resume(damaged) == 2
    assert_one_line(capsys.readouterr().err, "recycle-train", path)


def test_the_damaged_one_of_several_runs_is_named(
    damaged: Path,
    whole_run: Path,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = damaged / "checkpoints/best.safetensors"
    OF_THE_FILE["exponent of a weight"](path)
    assert predict_with(whole_run, damaged, image=image, out=tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert_one_line(said, "recycle-predict", path)
    assert f"expected tensor average/{HEAD} as it was saved, got other bytes" in said


@pytest.mark.parametrize(
    ("name", "damage"),
    [*OF_THE_DESCRIPTION, *(("dataset.json", with_plan(**changes)) for changes in PLANS)],
)
def test_a_damaged_description_predicts_nothing(
    damaged: Path,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Damage,
) -> None:
    damage(damaged / name)
    assert predict_with(damaged, image=image, out=tmp_path / "out") == 2
    assert_one_line(capsys.readouterr().err, "recycle-predict", damaged / name)


CONTENTS = ([], 3, {"a": None}, {"a": [3]})


@pytest.mark.parametrize("damage", [*OF_A_TEXT, *(with_plan(contents=c) for c in CONTENTS)])
def test_a_damaged_description_trains_nothing(
    damaged: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    damage(damaged / "dataset.json")
    assert resume(damaged) == 2
    assert_one_line(capsys.readouterr().err, "recycle-train", damaged / "dataset.json")


def test_checkpoints_of_the_version_before_predict_the_same_and_go_on(
    damaged: Path, whole_run: Path, image: Path, tmp_path: Path
) -> None:
    for name in ("last", "best"):
        of_the_version_before()(damaged / f"checkpoints/{name}.safetensors")
    labels = []
    for run, out in ((whole_run, tmp_path / "now"), (damaged, tmp_path / "before")):
        assert predict_with(run, image=image, out=out) == 0
        labels.append((out / "disc_6.png").read_bytes())
    assert labels[0] == labels[1]
    assert resume(damaged) == 0
