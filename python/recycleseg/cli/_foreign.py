"""Words of other tools, and what says the same here."""

from __future__ import annotations

_COUNTS_STEPS = "training counts steps, not epochs: --optim.steps 10000, or --time 2h"
_DEBUG = "messages are always whole; RECYCLESEG_DEBUG=1 shows where an error comes from"
_OUT = "o output output-dir output-folder output-path outdir out-dir out-folder dest destination "
_OUT += "save-dir save-path result-dir results results-folder"
_RUN_KNOWS = "--models names a run folder, which holds data set, plan and trainer"
_POSITIONAL = "the data set has no option before it: {prog} Dataset123_Name"
_PARALLEL = "num-workers j jobs n-jobs num-processes np npp nps num-threads cpus"

# Command -> words of other tools, and options of this command, or a sentence, for all of them.
_ANSWERS = {
    "recycle-train": {
        "epochs epoch num-epochs n-epochs max-epochs nb-epochs": _COUNTS_STEPS,
        "steps max-steps num-steps total-steps train-steps training-steps iterations iters "
        "num-iterations max-iterations max-iters iter": "--optim.steps",
        "b bs batch batch-size batchsize train-batch-size": "--optim.batch-size",
        "lr learning-rate initial-lr base-lr max-lr peak-lr": "--optim.lr-peak",
        "wd l2 decay": "--optim.weight-decay",
        "grad-accum gradient-accumulation accumulate": "--optim.accumulation",
        "clip clip-grad gradient-clip max-norm": "--optim.grad-clip",
        "optimizer optimiser opt momentum": "the optimiser is AdamW: --optim.lr-peak, "
        "--optim.weight-decay",
        "scheduler lr-scheduler lr-schedule": "the learning rate warms up, then falls as a cosine: "
        "--optim.warmup-steps, --optim.lr-end",
        "gpu gpus cuda device devices device-id device-ids accelerator num-gpus": "a run takes one "
        "device: --runtime.device cuda, or cuda:1 for the second GPU",
        "cpu no-cuda": "--runtime.device cpu",
        f"{_PARALLEL} workers": "--runtime.threads",
        "fp16 bf16 amp half mixed-precision dtype": "--runtime.precision",
        f"{_OUT} run-dir log-dir logdir work-dir exp-dir checkpoint-dir name exp-name "
        "experiment": "--out",
        "d i input input-dir data-dir data-path data-root data-folder datadir dataset dataset-dir "
        "dataset-path dataset-id dataset-name root path train-dir images": "--data",
        "c configuration": "there are no configurations such as 3d_fullres, because --data plans "
        "all; --config takes a YAML file, --resume continues a run",
        "cfg conf settings yaml": "--config",
        "p plans plans-identifier plan plan-file": "--config takes the YAML file of recycle-data "
        "plan",
        "f folds fold-id cv": "--fold",
        "tr trainer trainer-class method algorithm": "--strategy",
        "chk checkpoint ckpt ckpt-path weights pretrained pretrained-weights load load-from "
        "finetune fine-tune": "--init-from RUN starts from the weights of a run, --resume "
        "continues the run in --out",
        "continue continue-training restart resume-from": "--resume",
        "force force-overwrite clean": "--overwrite",
        "roi-size crop-size image-size img-size window-size": "--patch.size",
        "voxel-size target-spacing resolution pixdim": "--preprocess.spacing",
        "classes num-classes n-classes out-channels labels": "the classes stand in dataset.json",
        "in-channels input-channels modality modalities": "the channels stand in dataset.json",
        "network net arch architecture backbone features width": "--model.channels",
        "val-split val-fraction val-size test-split test-size train-split split validation-split": (
            "recycle-data split divides a data set; --split-file takes its file"
        ),
        "diffusion-steps timesteps t": "--diffusion.num-timesteps",
        "sampling-steps ddim-steps inference-steps num-inference-steps": "--sampling.num-steps",
        "random-state random-seed manual-seed": "--seed",
        "ema": "--optim.ema-decay",
        "time-limit max-time walltime duration hours minutes": "--time",
        "mem memory-limit max-memory ram vram": "--memory",
        "patience early-stopping early-stop": "there is no early stop, because the weights of the "
        "best validation are kept",
        "wandb tensorboard logger log-every-n-steps": "the run folder gets metrics.jsonl and "
        "TensorBoard files",
        "npz save-softmax": "recycle-predict --save-probabilities writes probabilities",
        "val validation-only eval test": "recycle-predict and recycle-evaluate do this with a run",
        "cache-dir": "--runtime.cache",
        "verbose v debug": _DEBUG,
        "silent no-progress disable-progress-bar": "--quiet",
    },
    "recycle-predict": {
        "model run runs run-dir model-dir model-path model-folder load chk checkpoint ckpt weights "
        "checkpoint-name": "--models",
        "d dataset dataset-id c configuration p plans tr trainer": _RUN_KNOWS,
        "f fold folds": "--models takes several runs, one per fold: -m fold0 fold1",
        "images image img imgs scans source src data in input-dir input-folder input-path "
        "images-dir": "--input",
        _OUT: "--out",
        f"{_PARALLEL} workers": "cases are predicted one after the other; the same "
        "command at the same time shares them, --threads sets the CPU threads",
        "gpu gpus cuda device-id num-gpus accelerator": "--device cuda",
        "cpu no-cuda": "--device cpu",
        "step-size overlap": "windows overlap as in training (--patch.overlap of recycle-train)",
        "disable-tta no-tta no-mirror": "images are mirrored only with --mirror",
        "tta test-time-augmentation flip": "--mirror",
        "save-softmax npz softmax probabilities probs save-probs": "--save-probabilities",
        "uncertainty entropy": "--save-uncertainty",
        "continue continue-prediction resume": "the same command again continues where it stopped",
        "force f-overwrite": "--overwrite",
        "batch-size sw-batch-size bs b": "--window-batch",
        "num-steps sampling-steps ddim-steps inference-steps timesteps": "--steps",
        "num-samples n-samples ensemble-size n": "--samples",
        "subset": "--split",
        "num-parts part-id parts shard shards num-shards shard-id rank world-size": "--part 2/8 "
        "takes the second of eight parts",
        "disable-postprocessing no-postprocessing": "--no-postprocess",
        "postprocessing pp-pkl-file postprocess": "--keep-largest, --fill-holes",
        "random-seed random-state": "--seed",
        "verbose v debug": _DEBUG,
        "silent disable-progress-bar": "--quiet",
    },
    "recycle-ensemble": {
        "members folders predictions preds pred p models m inputs input-folders": "--input",
        _OUT: "--out",
        f"{_PARALLEL} workers": "cases are combined one after the other; the same "
        "command at the same time shares them",
        "npz save-npz save-softmax save-probs probabilities": "--save-probabilities",
        "uncertainty entropy": "--save-uncertainty",
        "vote voting strategy mode": "--method",
        "w weight": "--weights",
        "threshold t": "--thresholds",
        "dj djfile dataset-json json classes": "--labels",
        "skip-missing ignore-missing": "--allow-missing",
        "force f": "--overwrite",
        "verbose v debug": _DEBUG,
        "silent": "--quiet",
    },
    "recycle-evaluate": {
        "gt g ground-truth groundtruth reference references truth target targets mask masks "
        "ref-dir gt-dir labels-dir label-dir": "--ref",
        "predictions prediction preds pred-dir i input inputs segmentations": "--pred",
        _OUT: "--out",
        "tolerance tol nsd nsd-tolerance threshold thresholds": "--tolerance-mm",
        "djfile dj dataset-json pfile l label classes num-classes": "--labels",
        f"{_PARALLEL} threads": "--workers",
        "gpu gpus cuda accelerator": "--device cuda",
        "metric metrics m": "every metric is computed; metrics.csv and summary.json hold all",
        "spacing voxel-size pixdim": "voxel sizes come from the files (--pixel-size)",
        "baseline versus vs other": "--compare",
        "num-parts part-id parts shard shards num-shards shard-id rank world-size": "--part 2/8 "
        "takes the second of eight parts",
        "csv json html report": "--out gets summary.json, metrics.csv and report.html",
        "surface": "--definitions",
        "force f": "--overwrite",
        "verbose v debug": _DEBUG,
        "silent": "--quiet",
    },
    "recycle-data check": {
        "d i data dataset dataset-id dir input root path": _POSITIONAL,
        f"{_PARALLEL} threads": "--workers",
        "verbose v full list": "--all",
        "spacing": "--pixel-size",
    },
    "recycle-data cache": {
        "cache cache-dir dir folder d path root": "--runtime.cache",
        "age days keep max-age before unused": "--older-than",
        "delete purge remove prune clear force f": "recycle-data cache clear deletes",
        "ls list": "recycle-data cache lists",
    },
    "recycle-study": {
        "d i data dataset dataset-id dir input root path": _POSITIONAL,
        "output": "--out",
        "time hours": "--budget",
        "config c cfg preset": "--settings",
        "seed n repeats runs": "--seeds",
        "strategy methods method arms": "--strategies",
        "num-steps sampling-steps": "--steps",
        f"{_PARALLEL} workers j": "the same command at the same time shares the work",
    },
    "recycle-data show": {
        "d i data dataset dataset-id dir input root path": _POSITIONAL,
        "output png file": "--out",
        "n num num-cases count max-cases": "--cases",
    },
    "recycle-data plan": {
        "d i data dataset dataset-id dir input root path": _POSITIONAL,
        "output file yaml": "--out",
        "gpu gpus device cuda": "--runtime.device",
        "gpu-memory gpu-memory-target mem ram": "--memory",
        f"{_PARALLEL} workers": "--runtime.threads",
    },
    "recycle-data split": {
        "d i data dataset dataset-id dir input root path": _POSITIONAL,
        "k n-splits num-folds kfold n-folds fold cv": "--folds",
        "test-size test-share test-split test-fraction": "--test",
        "val val-size val-split": "the rest is divided by itself; --test sets the tested share",
        "groups group patients patient patient-regex": "--group-by",
        "random-state random-seed": "--seed",
        "force f": "--overwrite",
    },
    "recycle-data convert": {
        "i input image images images-dir imgs m mask masks label-dir o out output": "the folders "
        "have no options before them: {prog} IMAGES MASKS OUT",
        "label classes l": "--labels",
        "channel modality modalities channel-names": "--channels",
        "symlink": "--link",
        "dataset-name": "--name",
    },
}


def foreign_words(prog: str) -> dict[str, str]:
    """Words that are no options of a command -> the options, or a sentence, that help."""
    return {
        word: answer.format(prog=prog)
        for words, answer in _ANSWERS.get(prog, {}).items()
        for word in words.split()
    }
