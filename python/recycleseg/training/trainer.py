"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from recycleseg.data.cache import CasesOnDisk
from recycleseg.files import write_json
from recycleseg.locks import locked
from recycleseg.planning.cost import NetworkShape
from recycleseg.planning.memory import peak_bytes
from recycleseg.planning.resources import time_of_run
from recycleseg.prediction.postprocess import check_postprocess
from recycleseg.processes import ALONE, Processes
from recycleseg.progress import Bar, plain_console, print_line
from recycleseg.report.curve import save_learning_curve
from recycleseg.run import factory
from recycleseg.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recycleseg.run.compiling import resolve_mode
from recycleseg.run.config import TrainConfig, resumed
from recycleseg.run.device import bytes_per_value, choose_precision, own_gpu, use_device
from recycleseg.run.environment import describe_environment
from recycleseg.run.folder import RunFolder, inputs_of_run, run_root
from recycleseg.run.last_checkpoint import save_last
from recycleseg.sampling.memory import peak_memory, resident_memory
from recycleseg.sampling.volume import VolumeSampler
from recycleseg.sampling.watch import NonFiniteError
from recycleseg.training.data import load_training_data
from recycleseg.training.evaluation import Evaluation, evaluate_cases, merged, summary_of
from recycleseg.training.init_from import start_from
from recycleseg.training.learner import Learner
from recycleseg.training.logging import RunLogger
from recycleseg.training.optim import (
    ADVICE,
    learning_rate,
)
from recycleseg.training.patch_dice import make_patch_dice
from recycleseg.training.reporting import (
    PictureMaker,
    check_same_data,
    describe_data,
    final_part,
    final_table,
    plan_table,
    split_notes,
    validation_line,
    write_run_description,
)
from recycleseg.training.saves import BackgroundSaves
from recycleseg.training.stopping import StopRequest
from recycleseg.training.timing import Speed, expected_time, fit_to_time, measure_speed


class Trainer:
    """A training run: data, network and strategy from a configuration, then `fit`.

    Several processes share each batch and the cases of each evaluation; the first of them alone
    writes and prints.

    Args:
        config: all options.
        console: where the run prints.
        plan: YAML with the reasons of the planned options, for the run folder.
        processes: those of the run, all with the same options.

    Raises:
        ValueError: the configuration and the data do not fit each other, or a file of the data set
            is invalid (FileError). The run folder is not changed then.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        console: Console | None = None,
        plan: str | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.plan = plan
        self.processes = processes
        self.console = console or plain_console(quiet=not processes.is_main)
        processes.rows(config.optim.batch_size)  # before data are prepared for nothing
        if config.runtime.threads is not None:
            torch.set_num_threads(config.runtime.threads)
        self.device = use_device(own_gpu(config.runtime.device))
        processes.check_device(self.device)
        self.precision = choose_precision(config.runtime.precision, self.device)
        self.process_bytes = resident_memory() if self.device.type == "cpu" else 0
        self.data = processes.in_turns(lambda: load_training_data(config, self.console))
        self.dataset = self.data.dataset
        classes = self.dataset.classes
        check_postprocess(config.postprocess, tuple(classes.foreground), self.dataset.spatial_dims)
        self.patch_size = factory.choose_patch_size(config.patch, self.data.median_shape)
        self.folder = RunFolder(run_root(config.out, self.dataset.name, config.strategy))

        self.learner = Learner(
            config, self.data, self.patch_size, self.device, self.precision, processes
        )
        config_file = shlex.quote(str(self.folder.config))
        self.saves = BackgroundSaves()
        self.stop = StopRequest(f"to go on: recycle-train --config {config_file} --resume")
        self.best_dice = -1.0

    @property
    def config(self) -> TrainConfig:
        """All options; the number of steps is known once the run has started."""
        return self.learner.config

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.learner.step

    def fit(self, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
        """Train to the end, then evaluate the best checkpoint.

        Args:
            resume: continue from the last checkpoint in the run folder.
            overwrite: delete an existing run; files that a run does not write stay.

        Returns:
            The content of summary.json.

        Raises:
            ValueError: the run folder does not fit `resume` and `overwrite`, another process works
                in it, or the numbers of the training are not finite. The checkpoints of before are
                kept then.
            Stopped: Ctrl-C or SIGTERM; a checkpoint of the last step is written.
        """
        only_main = locked(self.folder.root) if self.processes.is_main else nullcontext()
        with self.stop.listening(), only_main, self.saves:
            self.start(resume, overwrite)
            self.train()
            return self.finish()

    def start(self, resume: bool, overwrite: bool) -> None:
        """Open the run folder, go back to its last checkpoint if asked, and print the plan."""
        if self.config.init_from is not None and not resume:
            self.start_from(Path(self.config.init_from))
        config = self.processes.share(lambda: self._checked_config(resume, overwrite))
        self.learner.config = config
        speed = self.measure_speed()
        if resume:
            self._restore()
        seconds = time_of_run(config.time, self.device.type)
        self.learner.config = fit_to_time(config, speed, seconds)
        if self.processes.is_main:
            self._open_folder(resume, overwrite)
        self.print_plan(speed)
        if not resume:
            self.save(self.folder.last)
        self._wait_for_save()
        self.processes.note_opened()
        self._stop_if_asked(f"after {self._progress()}")

    def _checked_config(self, resume: bool, overwrite: bool) -> TrainConfig:
        """The configuration, once the folder and what is in it are known to fit."""
        self.folder.check(resume=resume, overwrite=overwrite, inputs=self._inputs)
        if not resume:
            return self.config
        config = resumed(self.config, self.folder.config)
        check_same_data(self.folder.dataset, describe_data(self.data, self.patch_size))
        return config

    def _restore(self) -> None:
        """Go back to the last checkpoint."""

        def read() -> tuple[Checkpoint, float]:
            last = load_checkpoint(self.folder.last)
            best_dice = last.number("best_dice")
            if self.folder.best.exists():  # written after the last checkpoint of the same step
                best_dice = load_checkpoint(self.folder.best).number("best_dice")
            return last, best_dice

        last, self.best_dice = self.processes.share(read)
        self.learner.state.restore(last)
        self.learner.step = last.number("step")

    def _open_folder(self, resume: bool, overwrite: bool) -> None:
        """Now that the run is known to fit, what is in its folder may be deleted."""
        notes = self.folder.open(resume=resume, overwrite=overwrite, inputs=self._inputs)
        description = describe_data(self.data, self.patch_size)
        environment = describe_environment(self.device, self.precision)
        environment["processes"] = self.processes.size
        write_run_description(self.folder, self.config, description, environment, self.plan)
        if self.plan is None and not resume:
            self.folder.plan.unlink(missing_ok=True)  # of the run that was here before
        for note in notes:
            print_line(self.console, note)

    @property
    def _inputs(self) -> dict[str, Path]:
        config = self.config
        return inputs_of_run(
            config.data, config.init_from, factory.cache_root(config.runtime.cache)
        )

    def start_from(self, run: Path) -> None:
        """Take over the weights of another run, and print what was kept."""
        if self.processes.is_main:
            for line in start_from(run, self.learner.network, self.config, self.data.plan):
                print_line(self.console, line)
        self.processes.same(list(self.learner.network.state_dict().values()))
        self.learner.begin_with_these_weights()

    def train(self) -> None:
        """Do all further steps. The checkpoint comes before the validation, which may take long."""
        optim, validation, estimate = self.config.optim, self.config.validation, ""
        patch_dice = make_patch_dice(
            self.config, self.data, self.patch_size, self.device, self.processes
        )
        with (
            self._logger() as logger,
            Bar(self.console, "training", optim.steps, done=self.step) as bar,
        ):
            validated = self.processes.share(lambda: logger.validated if logger else 0)
            if self._due(validation.every) and validated < self.step:
                self.validate(logger, bar)  # the run stopped before the end of this validation
            while self.step < optim.steps:
                start = time.perf_counter()
                self.saves.check()
                with self.processes.step():
                    loss, norm = self.learner.train_step()
                bar.reach(self.step)
                validate, stop = self._due(validation.every), self._stop_asked()
                save = validate or stop or self._due(validation.save_every)
                log = self.step % self.config.runtime.log_every == 0
                if (log or save) and (
                    skipped := self.learner.skipped.check(self.step, optim.steps)
                ):
                    self.console.print(skipped)
                if log:
                    scalars = {
                        "loss": float(loss),
                        "grad_norm": float(norm),
                        "lr": learning_rate(self.step - 1, optim),
                        "steps_per_second": 1.0 / (time.perf_counter() - start),
                    }
                    if logger:
                        logger.log(self.step, scalars)
                    note = "{steps_per_second:.2f} steps/s  loss {loss:.4f}".format(**scalars)
                    bar.note(note + estimate)
                if patch_dice is not None and self._due(validation.patch_every):
                    with self.learner.averaged():
                        scores = patch_dice(self.learner.forward)
                    if logger:
                        logger.log(self.step, scores)
                    estimate = f"  patch Dice {scores['patch_dice']:.4f}"
                if save:
                    self.save(self.folder.last)
                if stop or validate:
                    self._wait_for_save()
                if stop:
                    self._stop_if_asked(f"after {self._progress()}")
                if validate:
                    self.validate(logger, bar)

    def _logger(self) -> AbstractContextManager[RunLogger | None]:
        if not self.processes.is_main:
            return nullcontext()
        return RunLogger(self.folder.metrics, self.folder.tensorboard, self.step)

    def _wait_for_save(self) -> None:
        """Go on in all processes once the checkpoint is written."""
        self.saves.finish()
        self.processes.meet()

    def _stop_if_asked(self, where: str) -> None:
        """Stop in all processes if a signal has come to one; the checkpoint is written."""
        if self._stop_asked():
            self.stop.check(where, resumes=True)

    def _stop_asked(self) -> bool:
        """Whether a signal has come to any process; all wait here for the others."""
        if number := self.processes.largest(self.stop.number or 0):
            self.stop.number = number
        return self.stop.asked

    def print_plan(self, speed: Speed) -> None:
        """Print what the run will do, and the expected time and memory."""
        threads, number = torch.get_num_threads(), self.processes.size
        others = f"; {number} processes share each batch" if self.processes.several else ""
        self.console.print(
            plan_table(
                self.config,
                self.data,
                self.patch_size,
                num_parameters=sum(p.numel() for p in self.learner.network.parameters()),
                device=f"{self.device}, {self.precision}, {threads} CPU threads{others}",
                compile_mode=resolve_mode(self.config.compile, self.device),
                first_step=self.step,
                expected_time=expected_time(self.config, speed, self.step),
                expected_memory=self.expected_memory(),
                run_folder=self.folder.root,
            )
        )
        for note in split_notes(self.dataset, self.config.final_split):
            print_line(self.console, note)

    def expected_memory(self) -> int:
        """Bytes that the run will take at its peak."""
        images = len(self.dataset.channel_names)
        shape = NetworkShape.of_model(
            self.config.model,
            self.patch_size,
            images + self.learner.network.mask_channels,
            self.learner.network.out_channels,
        )
        return self.process_bytes + peak_bytes(
            shape,
            math.ceil(self.config.optim.batch_size / self.processes.size),
            bytes_per_value(self.precision),
            self.data.shapes.values(),
            self.device.type,
        )

    def measure_speed(self) -> Speed:
        """Time of steps and cases; no weight changes."""
        return measure_speed(
            self.learner,
            self._sampler(),
            self.data,
            final_part(self.dataset, self.config.final_split),
            self.processes,
        )

    @property
    def _validation_cases(self) -> tuple[str, ...]:
        return self.dataset.split["val"][: self.config.validation.max_cases]

    def validate(self, logger: RunLogger | None, bar: Bar) -> None:
        """Sample whole validation cases, keep the best weights, and log the Dice.

        Without validation cases the last weights are the best that is known.
        """
        if not self._validation_cases:
            self.save(self.folder.best, weights_only=True)
            return
        picture = PictureMaker(self.dataset.classes)
        with bar.part("validation", len(self._validation_cases)) as part:
            moment = f"during the validation after {self._progress()}"
            on_case = picture if self.processes.is_main else None
            evaluation = self.evaluate(self._validation_cases, moment, part, on_case=on_case)
        by_step, by_class = evaluation.by_step(), evaluation.by_class()
        dice = evaluation.mean_dice()
        # NaN (no case has a class) and equal Dice say nothing against the later weights.
        if not dice < self.best_dice:
            self.best_dice = max(self.best_dice, dice)
            self.save(self.folder.best, weights_only=True)
        if logger is None:
            return
        picture.save(self.folder.pictures / f"validation-{self.step:06d}.png", evaluation)
        self.saves.finish()
        # The line comes last, because it tells a resumed run that this validation is done.
        scores = {f"val_dice/{name}": value for name, value in by_class.items()}
        numbers = {f"val_num/{name}": n for name, n in evaluation.num_by_class().items()}
        numbers["val_num"] = evaluation.num_with_dice()[-1]
        logger.log(self.step, {"val_dice": dice, "val_dice_by_step": by_step, **scores, **numbers})
        save_learning_curve(self.folder.learning_curve, self.folder.metrics)
        self.console.print(validation_line(evaluation, self.step))

    def evaluate(
        self, case_ids: Sequence[str], moment: str, bar: Bar, on_case: PictureMaker | None = None
    ) -> Evaluation:
        """Sample and count cases with the averaged weights, if there are any.

        Each process takes some of the cases; all get the counts of all.

        Args:
            case_ids: of the cases.
            moment: in words, for the message if a signal stops the evaluation.
            bar: shows how many cases are done.
            on_case: see `evaluate_cases`.

        Raises:
            ValueError: the network gives NaN or Inf for a case.
        """

        def progress(done: int, total: int) -> None:
            bar.reach(len(case_ids) * done / total)
            self.stop.check(moment, resumes=True)

        with self.learner.averaged():
            try:
                own = evaluate_cases(
                    self._sampler(),
                    CasesOnDisk(self.data, self.processes.share_of(case_ids)),
                    self.dataset,
                    seed=self.config.seed,
                    device=self.device,
                    samples=self.config.sampling.samples,
                    postprocess=self.config.postprocess,
                    on_case=on_case,
                    progress=progress,
                )
            except NonFiniteError as error:
                raise ValueError(f"step {self.step}: {error}; {ADVICE}") from error
        return merged(self.processes.gather(own), case_ids)

    def _sampler(self) -> VolumeSampler:
        self.learner.network.eval()
        return factory.make_volume_sampler(
            self.config, self.learner.forward, self.data.plan, self.patch_size, self.device
        )

    def finish(self) -> dict[str, Any]:
        """Evaluate the best weights on the final split; write summary.json and print the table."""
        self.saves.finish()
        best = self.processes.share(
            lambda: load_checkpoint(self.folder.best) if self.folder.best.exists() else None
        )
        if best is not None:
            self.learner.state.restore_weights(best)
            self.learner.step = best.number("step")
        split = final_part(self.dataset, self.config.final_split)
        case_ids = self.dataset.split[split]
        with Bar(self.console, "final table", len(case_ids)) as bar:
            moment = "during the final table; all steps are done"
            evaluation = self.evaluate(case_ids, moment, bar)
        summary = {
            "split": split,
            "step": self.step,
            **summary_of(evaluation, self.dataset),
        }
        if self.processes.is_main:
            write_json(self.folder.summary, summary)
            save_learning_curve(self.folder.learning_curve, self.folder.metrics)
        self.console.print(final_table(evaluation, split, self.step, self.dataset.patients))
        peak = peak_memory(self.device) / 2**30
        self.console.print(f"peak memory {peak:.2f} GiB; run folder: {self.folder.root}")
        return summary

    def save(self, path: Path, *, weights_only: bool = False) -> None:
        """Begin to write a checkpoint, in the main process; see `RunState`, `BackgroundSaves`."""
        if not self.processes.is_main:
            return
        numbers = {"step": self.step, "best_dice": self.best_dice}
        checkpoint = self.learner.state.checkpoint(numbers, weights_only=weights_only)
        if weights_only:
            write = partial(save_checkpoint, path)
        else:
            write = partial(save_last, path, number=self.config.validation.keep_last)
        self.saves.begin(checkpoint, write)

    def _progress(self) -> str:
        return f"step {self.step} of {self.config.optim.steps}, whose checkpoint is written"

    def _due(self, every: int | None) -> bool:
        """Whether something happens after this step: every so many steps and at the end."""
        if every is None or self.step == 0:
            return False
        return self.step % every == 0 or self.step == self.config.optim.steps
