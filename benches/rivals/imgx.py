"""ImgX-DiffSeg, the authors' JAX code, in a process of its own beside PyTorch's.

IMGX_REPO names a checkout of it, IMGX_PYTHON an interpreter with jax 0.4.20, jaxlib 0.4.20, flax
0.7.5, optax 0.1.7, numpy<2, scipy<1.13, chex 0.1.84 and hydra-core. By itself, in `benches`:

    python -m rivals.imgx A train recycling 3
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from step_cases import CASES, Case

VARIABLES = ("IMGX_REPO", "IMGX_PYTHON")


def why_not() -> str | None:
    """What is missing to run ImgX."""
    unset = [name for name in VARIABLES if not os.environ.get(name)]
    return f"set {' and '.join(unset)}" if unset else None


class ImgxWorkload:
    """One case computed by ImgX, whose process lives while the `with` block runs.

    The first call of each kind of work also compiles it, for minutes.

    Attributes:
        extra_info: what ImgX's process said of the last call: "seconds", "compile_seconds" (XLA's
            so far, initialisation included), "parameters", "platform", "peak_memory_compiling_mb"
            and "peak_memory_mb", the peak since compilation.
    """

    def __init__(self, case: Case, strategy: str = "recycling") -> None:
        repository, interpreter = (os.environ[name] for name in VARIABLES)
        script = Path(__file__).with_name("imgx_process.py")
        arguments = [json.dumps(asdict(case)), strategy, str(Path(repository).absolute())]
        self.process = subprocess.Popen(
            # -B: nothing is written into the checkout.
            [interpreter, "-B", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.extra_info: dict[str, Any] = {}

    def __enter__(self) -> ImgxWorkload:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        self.process.communicate()

    def train(self) -> None:
        """One optimiser step, from noise to updated weights."""
        self._do("train")

    def sample(self) -> None:
        """Five DDIM steps."""
        self._do("sample")

    def _do(self, work: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{work}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # nothing to read then, either
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError(f"ImgX's process ended with status {self.process.wait()}")
        self.extra_info |= json.loads(reply)


def main() -> None:
    """Print, as JSON, the seconds of each of n repetitions after warm-up and what else is known."""
    case, work, strategy, repetitions = sys.argv[1:]
    with ImgxWorkload(CASES[case], strategy) as workload:
        seconds = []
        for _ in range(1 + int(repetitions)):
            getattr(workload, work)()
            seconds.append(workload.extra_info["seconds"])
    print(json.dumps({**workload.extra_info, "seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
