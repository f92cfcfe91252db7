"""What works where there is no GPU driver, no CUDA in PyTorch and no compiled extension."""

from __future__ import annotations

import subprocess
import sys

# An entry None in sys.modules makes the import fail as a missing file does; torch.cuda is kept
# for its own use by torch, but whatever recycleseg asks it for is refused.
PROGRAM = """
import sys

sys.modules["recycleseg._C"] = None
import numpy as np
import torch

torch.cuda.is_available = lambda: False
for name in ("current_device", "current_stream", "get_device_name", "device_count", "synchronize"):
    def refuse(*args, name=name, **kwargs):
        raise AssertionError(f"torch.cuda.{name} was called")
    setattr(torch.cuda, name, refuse)

import recycleseg as rs

assert rs.ops.build_info()["extension"] is None
ref = np.zeros((6, 7, 8), np.uint8)
ref[1:4, 2:5, 2:6] = 1
pred = np.roll(ref, 1, axis=0)
scores = rs.evaluate(pred, ref, spacing=(2.0, 1.0, 1.0), labels={"a": 1})
assert abs(scores["a"]["dice"] - 2 / 3) < 1e-12 and scores["a"]["hd"] == 2.0
maps = torch.from_numpy(ref)[None]
assert rs.distance_transform(maps, spacing=(2.0, 1.0, 1.0)).max() == 2.0
probs = torch.rand(3, 1, 4, 5, 6).softmax(dim=2)
assert torch.equal(rs.ensemble_vote(probs).long(), probs.mean(0).argmax(1))
try:
    rs.overlap_counts(maps, maps, 2, backend="cpp")
except RuntimeError as error:
    assert "needs recycleseg's compiled extension" in str(error), error
else:
    raise AssertionError("backend='cpp' ran without the extension")
print("done")
"""


def test_works_without_driver_cuda_or_extension() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"
