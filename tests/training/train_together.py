"""Trains runs one after the other in the processes that torchrun has started.

    torchrun --nproc-per-node 2 train_together.py FOLDER

FOLDER has a YAML file of the configuration of each run; a run whose folder has a checkpoint goes on
from it. With the second argument STEPS a run is left after so many of its steps.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from recycleseg.processes import Processes, joined
from recycleseg.run.config import load_config
from recycleseg.training.timing import Speed
from recycleseg.training.trainer import Trainer


def train(file: Path, leave_after: int | None, processes: Processes) -> None:
    trainer = Trainer(load_config(file), processes=processes)
    # The tests of whole commands measure; here it would take most of the time.
    trainer.measure_speed = lambda: Speed(0.01, (), ())  # type: ignore[method-assign]
    if leave_after is None:
        trainer.fit(resume=processes.share(trainer.folder.last.exists))
        return
    trainer.start(resume=False, overwrite=False)
    for _ in range(leave_after):
        trainer.learner.train_step()
    trainer.save(trainer.folder.last)
    trainer.saves.finish()


def main() -> None:
    folder, leave_after = Path(sys.argv[1]), [int(number) for number in sys.argv[2:]]
    with joined("train_together") as processes:
        # Sums in the order of one thread, so that runs are comparable.
        torch.set_num_threads(1)
        for file in sorted(folder.glob("*.yaml")):
            train(file, *(leave_after or [None]), processes)


if __name__ == "__main__":
    main()
