"""How far a run is from its plan: peak memory and time of six made-up data sets.

python benches/plan_accuracy.py --time 90s --out benches/results/plan_accuracy-MACHINE.json

Each run is a process of its own, `recycle-train --data DIR --time T`. The time counts from the
plan (config.yaml) to the last result (summary.json).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from recycleseg.data.volumes import write_volume
from recycleseg.progress import parse_duration
from recycleseg.run.device import use_device
from recycleseg.run.environment import describe_environment

# Shape, voxel size in mm, channels, structures.
DATA: dict[str, tuple[tuple[int, ...], tuple[float, ...], int, int]] = {
    "isotropic": ((64, 72, 64), (1.0, 1.0, 1.0), 1, 2),
    "thick slices": ((160, 192, 10), (1.5, 1.5, 10.0), 1, 3),
    "two channels": ((128, 128, 20), (0.8, 0.8, 3.6), 2, 2),
    "four channels": ((80, 96, 72), (1.0, 1.0, 1.0), 4, 3),
    "images": ((384, 512), (0.2, 0.2), 1, 1),
    "many classes": ((56, 56, 56), (2.0, 2.0, 2.0), 1, 15),
}
CASES = 8


def write_data(root: Path, name: str) -> None:
    """Blobs in noise; every structure is brighter than the one before."""
    shape, spacing, channels, structures = DATA[name]
    ending = ".nii.gz" if len(shape) == 3 else ".png"
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(CASES):
        field = ndimage.gaussian_filter(rng.normal(size=shape), [6 / mm for mm in spacing])
        grades = np.quantile(field, np.linspace(0.7, 1, structures + 1))
        label = np.digitize(field, grades[:-1]).astype(np.uint8)
        for channel in range(channels):
            image = 60 + 120 * label / structures + rng.normal(0, 15, shape)
            stored = image.clip(0, 255).astype(np.uint8 if len(shape) == 2 else np.float32)
            path = root / f"imagesTr/c{case}_{channel:04d}{ending}"
            write_volume(path, stored, spacing=spacing)
        write_volume(root / f"labelsTr/c{case}{ending}", label, spacing=spacing)
    description = {
        "name": name.replace(" ", "_"),
        "channel_names": {str(c): f"channel {c}" for c in range(channels)},
        "labels": {"background": 0, **{f"class {s}": s for s in range(1, structures + 1)}},
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps(description))


def run(name: str, time: str) -> dict[str, float]:
    """Train once; the figures of the plan and of the run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root / "data", name)
        command = [
            *(str(Path(sys.executable).with_name("recycle-train")), "--data", str(root / "data")),
            *("--out", str(root / "run"), "--time", time),
            *("--runtime.cache", str(root / "cache")),
        ]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        figures = re.findall(r"(?:expected memory\s+about|peak memory) ([\d.]+) GiB", told)
        seconds = [(root / "run" / f).stat().st_mtime for f in ("config.yaml", "summary.json")]
    expected, shown = map(float, figures)
    taken = seconds[1] - seconds[0]
    return {
        "expected_gib": expected,
        "peak_gib": shown,
        "memory_ratio": round(shown / expected, 3),
        "expected_seconds": parse_duration(time),
        "seconds": round(taken, 1),
        "time_ratio": round(taken / parse_duration(time), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--time", default="90s")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {}
    for name in DATA:
        results[name] = run(name, arguments.time)
        print(name, results[name], flush=True)
    if arguments.out is not None:
        environment = describe_environment(use_device("cpu"), "auto")
        content = {"environment": environment, "runs": results}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
