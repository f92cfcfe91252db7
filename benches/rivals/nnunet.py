"""nnU-Net, planned and trained by its own code, in an environment of its own.

    python3 -m venv NN && NN/bin/pip install torch nnunetv2
    cd benches
    NN/bin/python -m rivals.nnunet plan > results/nnunet_plans.json
    NN/bin/python -m rivals.nnunet train DIR --time 20m --out OUT

plan: what nnU-Net decides for the data sets in `fingerprints`, as JSON.

train: plans, preprocesses, trains and predicts the test cases of DIR/split.json, all on the CPU.
nnU-Net's epochs and iterations are chosen so that its whole schedule ends in the given time. The
time covers the training alone, from loading data to the last checkpoint. OUT gets

    predictions/         label maps of the test cases
    results/             nnU-Net's own folder: log, checkpoints, plans
    measured.json        seconds of each part, schedule, versions
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from rivals.nnunet_data import convert
from rivals.nnunet_plans import plan_all

PACKAGES = ("nnunetv2", "torch", "batchgenerators", "batchgeneratorsv2", "numpy")
FOLD = 0
# Of the time of a training, for validation on patches, checkpoint and picture after each epoch.
# More epochs make the steps of the learning rate finer.
EPOCH_END_SHARE = 0.05
LEAST_EPOCHS, MOST_EPOCHS = 10, 1000
# nnU-Net's workers have at least six batches ready when training starts: their true speed shows
# only later.
WARM_ITERATIONS = 12
LEAST_MEASURED = 8
MEASURED_SHARE = 0.05


@dataclass(frozen=True)
class Speed:
    """Seconds of the parts of a training, as measured.

    Attributes:
        start: from nothing to the first batch.
        iteration: a training step, with the wait for its batch.
        epoch_end: one validation batch, checkpoint and picture.
        end: the last checkpoint, and the end of the workers.
    """

    start: float
    iteration: float
    epoch_end: float
    end: float


@dataclass(frozen=True)
class Schedule:
    """How long nnU-Net trains.

    Attributes:
        epochs: after each the learning rate falls.
        iterations: per epoch.
    """

    epochs: int
    iterations: int


def choose_schedule(seconds: float, speed: Speed) -> Schedule:
    """The longest schedule that ends in time.

    Args:
        seconds: of the whole training.
        speed: as measured.

    Raises:
        ValueError: not even one iteration fits.
    """
    left = seconds - speed.start - speed.end
    fitting = int(left / (speed.epoch_end + speed.iteration))
    if fitting < 1:
        least = speed.start + speed.epoch_end + speed.iteration + speed.end
        raise ValueError(f"--time: expected at least {least:.0f} s, got {seconds:g} s")
    wanted = max(LEAST_EPOCHS, int(EPOCH_END_SHARE * left / speed.epoch_end))
    epochs = min(wanted, fitting, MOST_EPOCHS)
    return Schedule(epochs, int((left / epochs - speed.epoch_end) / speed.iteration))


def parse_time(text: str) -> float:
    """Seconds from "30s", "20m" or "1h"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 30s or 20m, got {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time of a block to `seconds`."""
    start = perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + perf_counter() - start


def train(
    source: Path, out: Path, seconds: float, threads: int, gpu_memory: float
) -> dict[str, Any]:
    """Plan, preprocess, train and predict; what was measured.

    Args:
        source: the data set.
        out: a folder that does not exist.
        seconds: of the training.
        threads: of PyTorch.
        gpu_memory: GB that nnU-Net plans for.
    """
    for name in ("raw", "preprocessed", "results"):
        folder = out / name
        folder.mkdir(parents=True)
        os.environ[f"nnUNet_{name}"] = str(folder)
    os.environ["nnUNet_compile"] = "f"

    import torch

    torch.set_num_threads(threads)
    took: dict[str, float] = {}
    dataset = convert(source, out / "raw")
    with clock(took, "plan_and_preprocess"):
        configuration = _prepare(dataset, threads, gpu_memory)
    with clock(took, "measure"):
        speed = _measure(_trainer(dataset, configuration), MEASURED_SHARE * seconds)
    schedule = choose_schedule(seconds, speed)
    trainer = _trainer(dataset, configuration)
    _set(trainer, schedule)
    with clock(took, "train"):
        trainer.run_training()
    with clock(took, "predict"):
        _predict(trainer.output_folder_base, out / "raw" / dataset, out / "predictions")
    return {
        "dataset": dataset,
        "configuration": configuration,
        "asked_seconds": seconds,
        "gpu_memory": gpu_memory,
        "seconds": took,
        "speed": asdict(speed),
        **asdict(schedule),
        "batch_size": trainer.batch_size,
        "patch_size": [int(n) for n in trainer.configuration_manager.patch_size],
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "threads": threads,
        "test_cases": len(list((out / "raw" / dataset / "imagesTs").glob("*_0000.*"))),
        "processor": _processor(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }


def _prepare(dataset: str, processes: int, gpu_memory: float) -> str:
    """Fingerprint, plan and preprocess by nnU-Net's defaults; the configuration to train."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    number = int(dataset[len("Dataset") : len("Dataset000")])
    extract_fingerprints([number], num_processes=processes)
    identifier = plan_experiments([number], gpu_memory_target_in_gb=gpu_memory)
    plans = Path(os.environ["nnUNet_preprocessed"], dataset, f"{identifier}.json")
    known = json.loads(plans.read_text(encoding="utf-8"))["configurations"]
    configuration = "3d_fullres" if "3d_fullres" in known else "2d"
    preprocess([number], identifier, [configuration], [processes])
    return configuration


def _trainer(dataset: str, configuration: str) -> Any:
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(dataset, configuration, FOLD, device=torch.device("cpu"))


def _set(trainer: Any, schedule: Schedule) -> None:
    """The only settings of nnU-Net that are changed."""
    trainer.num_epochs = schedule.epochs
    trainer.num_iterations_per_epoch = schedule.iterations
    trainer.num_val_iterations_per_epoch = 1


def _measure(trainer: Any, seconds: float) -> Speed:
    """Train two short epochs, of which the second one counts, and throw the result away.

    Args:
        trainer: a new one.
        seconds: least time of the second epoch.
    """
    took: dict[str, float] = {}
    _set(trainer, Schedule(epochs=2, iterations=0))
    with clock(took, "start"):
        trainer.on_train_start()
    _short_epoch(trainer, WARM_ITERATIONS, 0.0)
    iteration, epoch_end = _short_epoch(trainer, LEAST_MEASURED, seconds)
    with clock(took, "end"):
        trainer.on_train_end()
    shutil.rmtree(trainer.output_folder)
    return Speed(took["start"], iteration, epoch_end, took["end"])


def _short_epoch(trainer: Any, least: int, seconds: float) -> tuple[float, float]:
    """An epoch as in nnU-Net's run_training; the times of an iteration and of the epoch's end.

    Args:
        trainer: after its `on_train_start`.
        least: iterations.
        seconds: the iterations go on for so long.
    """
    import torch

    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs = []
    begin = perf_counter()
    while len(outputs) < least or perf_counter() - begin < seconds:
        outputs.append(trainer.train_step(next(trainer.dataloader_train)))
    trained = perf_counter()
    trainer.on_train_epoch_end(outputs)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        batch = next(trainer.dataloader_val)
        trainer.on_validation_epoch_end([trainer.validation_step(batch)])
    trainer._best_ema = None  # so that the time of a new best checkpoint counts
    trainer.on_epoch_end()
    return (trained - begin) / len(outputs), perf_counter() - trained


def _predict(model: str, dataset: Path, out: Path) -> None:
    """Predict imagesTs by nnU-Net's defaults: half overlap, Gaussian weights, mirroring."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, (FOLD,))
    predictor.predict_from_files(
        str(dataset / "imagesTs"),
        str(out),
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((ln.split(":")[1].strip() for ln in lines if ln.startswith("model name")), "")


def main() -> None:
    """The two verbs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    planning, training = verbs.add_parser("plan"), verbs.add_parser("train")
    for parser_of_verb in (planning, training):
        parser_of_verb.add_argument(
            "--gpu-memory",
            type=float,
            default=8.0,
            help="GB that nnU-Net plans for; less makes patches and batches smaller",
        )
    training.add_argument("source", type=Path, metavar="DIR")
    training.add_argument("--out", type=Path, required=True, help="a folder that does not exist")
    training.add_argument("--time", type=parse_time, default="20m", help="30s, 20m or 1h")
    training.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if given.verb == "plan":
        versions = json.dumps({package: version(package) for package in PACKAGES})
        found = plan_all(given.gpu_memory)
        plans = ",\n".join(f"{json.dumps(name)}: {json.dumps(of)}" for name, of in found.items())
        print(
            f'{{"versions": {versions}, "gpu_memory": {given.gpu_memory}, "plans": {{\n{plans}}}}}'
        )
        return
    out = given.out.resolve()
    measured = train(given.source, out, given.time, given.threads, given.gpu_memory)
    text = json.dumps(measured, indent=1)
    (out / "measured.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
