"""Common mistakes on a command line, and the line that answers each: exit code 2, nothing done."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from recycleseg.cli.main import main

# Files in the working folder of the tests.
FILES = {
    "Dataset123_Liver/readme.txt": "",
    "runs/first/readme.txt": "",
    "scans/readme.txt": "",
    "predictions/readme.txt": "",
    "labelsTs/readme.txt": "",
    "key.yaml": "optim: {batchsize: 2}\n",
    "word.yaml": "optim: {steps: 7}\nepochs: 100\n",
    "type.yaml": "optim:\n  steps: many\n",
    "range.yaml": "model:\n  dropout: 1.5\n",
    "choice.yaml": "strategy: recycle\n",
    "group.yaml": "optim: 5\n",
    "tab.yaml": "optim:\n\tsteps: 7\n",
    "empty.yaml": "",
    "list.yaml": "- 1\n- 2\n",
    "space.yaml": "seed:5\n",
    "twice.yaml": "seed: 5\nstrategy: standard\nseed: 6\n",
    "time.yaml": "time: 30\n",
    "broken.yaml": "seed: [5\n",
}
EXAMPLES = {
    "predict": "recycle-predict -m runs/first -i scans -o predictions",
    "ensemble": "recycle-ensemble -i predictions others -o ensemble",
    "evaluate": "recycle-evaluate -p predictions -r labelsTs -o evaluation",
    "study": "recycle-study Dataset123_Name -o study --budget 8h",
}
A_TIME = "expected a time with its unit, such as 90s, 30m, 2h or 1d"
STRATEGIES = "recycling, standard, self_conditioning or supervised"

TRAIN = {
    # Words of other tools.
    "--epochs 100": "unknown option --epochs; training counts steps, not epochs: "
    "--optim.steps 10000, or --time 2h",
    "--num_epochs 100": "unknown option --num_epochs; training counts steps, not epochs: "
    "--optim.steps 10000, or --time 2h",
    "--batch-size 4": "unknown option --batch-size; did you mean --optim.batch-size?",
    "--batch_size=4": "unknown option --batch_size; did you mean --optim.batch-size?",
    "--lr 1e-3": "unknown option --lr; did you mean --optim.lr-peak?",
    "--learning-rate 1e-3": "unknown option --learning-rate; did you mean --optim.lr-peak?",
    "--gpus 2": "unknown option --gpus; a run takes one device: --runtime.device cuda, or cuda:1 "
    "for the second GPU",
    "--device cuda": "unknown option --device; a run takes one device: --runtime.device cuda, or "
    "cuda:1 for the second GPU",
    "--num-workers 8": "unknown option --num-workers; did you mean --runtime.threads?",
    "--output runs/x": "unknown option --output; did you mean --out?",
    "--input scans": "unknown option --input; did you mean --data?",
    "-d 4": "unknown option -d; did you mean --data?",
    "-f 0": "unknown option -f; did you mean --fold?",
    "-o runs/x": "unknown option -o; did you mean --out?",
    "-c 3d_fullres": "unknown option -c; there are no configurations such as 3d_fullres, because "
    "--data plans all; --config takes a YAML file, --resume continues a run",
    "-tr nnUNetTrainer": "unknown option -tr; did you mean --strategy?",
    "-p nnUNetPlans": "unknown option -p; --config takes the YAML file of recycle-data plan",
    "-chk best.pth": "unknown option -chk; --init-from RUN starts from the weights of a run, "
    "--resume continues the run in --out",
    # Names that are nearly right.
    "--optim.stps 3": "unknown option --optim.stps; did you mean --optim.steps?",
    "--optim.batchsize 3": "unknown option --optim.batchsize; did you mean --optim.batch-size?",
    "--model.batch_size 3": "unknown option --model.batch_size; did you mean --optim.batch-size?",
    "--strategi standard": "unknown option --strategi; did you mean --strategy?",
    "--rotation 5": "unknown option --rotation; did you mean --augment.rotation?",
    "--prev-step max": "unknown option --prev-step; did you mean --recycling.prev-step or "
    "--self-conditioning.prev-step?",
    "-data Dataset123_Liver": "unknown option -data; did you mean --data?",
    "—data Dataset123_Liver": "unknown option —data; did you mean --data?",
    "--optim 5": "unknown option --optim; it is a group of options: --optim.steps, "
    "--optim.batch-size, --optim.accumulation, ...",
    "--xyzzy": "unknown option --xyzzy; recycle-train --help-all lists all options",
    # Values.
    "--optim.steps abc": "--optim.steps: expected a whole number, got 'abc'",
    "--optim.steps 2.5": "--optim.steps: expected a whole number, got '2.5'",
    "--optim.steps -1": "--optim.steps: expected at least 0, got -1",
    "--optim.lr-peak 0,001": "--optim.lr-peak: expected a number, got '0,001'; did you mean 0.001?",
    "--time 30": f"--time: {A_TIME}, got 30",
    "--memory 8 --data Dataset123_Liver": "--memory: expected a size such as 900M or 8G, got '8'",
    "--memory 8GB": "--memory: expected --data with it, because only data are planned for",
    "--strategy recycle": f"--strategy: expected {STRATEGIES}, got 'recycle'; did you mean "
    "recycling?",
    "--preset hipocampus": "--preset: expected fetal_head, hippocampus, imgx, paper or tiny, got "
    "'hipocampus'; did you mean hippocampus?",
    "--runtime.device gpu": "--runtime.device: expected auto, cpu, cuda or cuda:N with N below the "
    "number of GPUs visible here (0), got 'gpu'; did you mean cuda?",
    "--patch.size 32 48 32": "--patch.size: expected one value, got '32 48 32'; write 32,48,32",
    "--patch.size [32, 48, 32]": "--patch.size: expected one value, got '[32, 48, 32]'; write "
    "32,48,32",
    "--model.scales 2x2x1": "--model.scales: expected a whole number or a list such as "
    "[[2,2,1],2], got '2x2x1'",
    "--imgx-compat maybe": "--imgx-compat: expected true or false, got 'maybe'",
    "--model.dropout 1.5": "--model.dropout: expected 0 to below 1, got 1.5",
    "--sampling.num-steps 0": "--sampling.num-steps: expected 1 to diffusion.num_timesteps (1001), "
    "got 0",
    # Missing values, words without options, options twice.
    "--optim.steps": "--optim.steps: expected a whole number, got no value",
    "--compile": "--compile: expected auto, off, default or max-autotune, got no value",
    "--data --time 30m": "--data: expected a value, got no value",
    "--time": f"--time: {A_TIME}, got no value",
    "--data=": "--data: expected text, got an empty value",
    "--seed =5": "--seed: expected a whole number, got '=5'; write = without spaces around it",
    "Dataset123_Liver": "Dataset123_Liver: expected an option before it; did you mean --data "
    "Dataset123_Liver?",
    "hippocampus": "hippocampus: expected an option before it; did you mean --preset hippocampus?",
    "optim.steps=100": "optim.steps=100: expected an option before it; did you mean "
    "--optim.steps=100?",
    "--resume=yes": "--resume: expected no value, got 'yes'",
    "--resume --overwrite": "--resume, --overwrite: expected at most one of them, got both",
    # Paths.
    "--data Dataset12_Liver": "--data: expected a data set in the nnU-Net raw layout, got "
    "Dataset12_Liver, which does not exist; did you mean Dataset123_Liver?",
    "--data nowhere": "--data: expected a data set in the nnU-Net raw layout, got nowhere, which "
    "does not exist",
    "--init-from runs/frist": "--init-from: expected a run folder, got runs/frist, which does not "
    "exist; did you mean runs/first?",
    "--config missing.yml": "--config: expected a YAML file, got missing.yml, which does not exist",
    "--config rnage.yaml": "--config: expected a YAML file, got rnage.yaml, which does not exist; "
    "did you mean range.yaml?",
    # Files of options.
    "--config key.yaml": "key.yaml: unknown option optim.batchsize; did you mean optim.batch_size?",
    "--config word.yaml": "word.yaml: unknown option epochs; training counts steps, not epochs: "
    "optim.steps 10000, or time 2h",
    "--config type.yaml": "type.yaml: optim.steps: expected a whole number, got 'many'",
    "--config range.yaml": "range.yaml: model.dropout: expected 0 to below 1, got 1.5",
    "--config choice.yaml": f"choice.yaml: strategy: expected {STRATEGIES}, got 'recycle'; did you "
    "mean recycling?",
    "--config group.yaml": "group.yaml: optim: expected options such as `optim: {steps: ...}`, got "
    "5",
    "--config tab.yaml": "tab.yaml: line 2: expected spaces, got a tab, which YAML does not allow",
    "--config empty.yaml": "empty.yaml: expected options such as `optim: {steps: 1000}`, got "
    "nothing",
    "--config list.yaml": "list.yaml: expected options such as `optim: {steps: 1000}`, got a list",
    "--config space.yaml": "space.yaml: expected options such as `optim: {steps: 1000}`, got a "
    "text; a space is needed after the colon of `name: value`",
    "--config twice.yaml": "twice.yaml: line 3: expected YAML, got: seed stands twice",
    "--config time.yaml": f"time.yaml: time: {A_TIME}, got 30",
    "--config broken.yaml": "broken.yaml: line 2: expected YAML, got: expected ',' or ']', but got "
    "'<stream end>'",
    "--config runs/first": "runs/first: expected YAML, got no file",
}
PREDICT = {
    "": f"--models, --input, --out: expected a value, got none; such as: {EXAMPLES['predict']}",
    "-m runs/first -i scans": f"--out: expected a value, got none; such as: {EXAMPLES['predict']}",
    "runs/first scans out": "runs/first: expected an option before it; did you mean --models "
    "runs/first --input scans --out out?",
    "-m runs/frist -i scans -o out": "--models: expected a run folder, got runs/frist, which does "
    "not exist; did you mean runs/first?",
    "-m runs/first -i scan -o out": "--input: expected images, got scan, which does not exist; did "
    "you mean scans?",
    "-m runs/first -i scans --output out": "unknown option --output; did you mean --out?",
    "-d 4 -i scans -o out": "unknown option -d; --models names a run folder, which holds data set, "
    "plan and trainer",
    "-i scans -o out -c 3d_fullres": "unknown option -c; --models names a run folder, which holds "
    "data set, plan and trainer",
    "-m runs/first -i scans -o out -f 0": "unknown option -f; --models takes several runs, one per "
    "fold: -m fold0 fold1",
    "-m runs/first -i scans -o out -chk best": "unknown option -chk; did you mean --models?",
    "-m runs/first -i scans -o out --disable_tta": "unknown option --disable_tta; images are "
    "mirrored only with --mirror",
    "-m runs/first -i scans -o out --save_softmax": "unknown option --save_softmax; did you mean "
    "--save-probabilities?",
    "-m runs/first -i scans -o out --gpu 0": "unknown option --gpu; did you mean --device cuda?",
    "-m runs/first -i scans -o out --save-prob": "unknown option --save-prob; did you mean "
    "--save-probabilities?",
    "-m runs/first -i scans -o out --steps five": "--steps: expected a whole number, got 'five'",
    "-m runs/first -i scans -o out --split tst": "--split: expected train, val, test or all, got "
    "'tst'; did you mean test?",
    "-m runs/first -i scans -o out --sampler dpm": "--sampler: expected ddim or ddpm, got 'dpm'; "
    "did you mean ddpm?",
    "-m runs/first -i scans -o out --window-batch x": "--window-batch: expected auto or a number "
    "from 1 on, got 'x'",
    "-m runs/first -m runs/second -i scans -o out": "--models: expected once, got runs/first and "
    "runs/second; write --models runs/first runs/second",
    "-m runs/first -i scans -o": "--out: expected a value, got no value",
    "-m runs/first -i scans -o out --threads 0": "--threads: expected at least 1, got 0",
    "-m runs/first -i scans -o out -num_parts 8 -part_id 2": "unknown option -num_parts; --part "
    "2/8 takes the second of eight parts",
    "-m runs/first -i scans -o out --part 9/8": "--part: expected I/N with I from 1 to N, such as "
    "2/8, got 9/8",
    "-m runs/first -i scans -o out --part 2": "--part: expected I/N with I from 1 to N, such as "
    "2/8, got 2",
    "-m runs/first -i scans -o out --part": "--part: expected a value, got no value",
    "-m runs/first -i scans -o out --part 2/8 --overwrite": "--overwrite: expected all cases, got "
    "part 2/8 because of --part; choose another --out, or delete the folder by hand",
    "-m runs/first -i scans -o out -npp 4": "unknown option -npp; cases are predicted one after "
    "the other; the same command at the same time shares them, --threads sets the CPU threads",
}
ENSEMBLE = {
    "": f"--input, --out: expected a value, got none; such as: {EXAMPLES['ensemble']}",
    "-i predictions labelsTs": "--out: expected a value, got none; such as: "
    f"{EXAMPLES['ensemble']}",
    "predictions labelsTs": "predictions: expected an option before it; did you mean --input "
    "predictions --out labelsTs?",
    "-i predictons labelsTs -o out": "--input: expected a folder of predictions, got predictons, "
    "which does not exist; did you mean predictions?",
    "-i predictions predictions -o out": "--input: expected every folder once, got {cwd}/"
    "predictions repeatedly",
    "-i predictions -i labelsTs -o out": "--input: expected once, got predictions and labelsTs; "
    "write --input predictions labelsTs",
    "-i predictions labelsTs -o out --method vote": "--method: expected mean, majority or max, got "
    "'vote'",
    "-i predictions labelsTs -o out --method majorty": "--method: expected mean, majority or max, "
    "got 'majorty'; did you mean majority?",
    "-i predictions labelsTs -o out --weights a b": "--weights: expected a number, got 'a'",
    "-i predictions labelsTs -o out --weight 1 2": "unknown option --weight; did you mean "
    "--weights?",
    "-i predictions labelsTs -o out -np 4": "unknown option -np; cases are combined one after the "
    "other; the same command at the same time shares them",
    "-i predictions labelsTs -o out --save_npz": "unknown option --save_npz; did you mean "
    "--save-probabilities?",
    "-i predictions labelsTs -out out": "unknown option -out; did you mean --out?",
}
EVALUATE = {
    "": f"--pred, --ref, --out: expected a value, got none; such as: {EXAMPLES['evaluate']}",
    "-p predictions -r labelsTs": "--out: expected a value, got none; such as: "
    f"{EXAMPLES['evaluate']}",
    "predictions labelsTs": "predictions: expected an option before it; did you mean --pred "
    "predictions --ref labelsTs?",
    "-p predictions -r labelTs -o out": "--ref: expected references, got labelTs, which does not "
    "exist; did you mean labelsTs?",
    "-p predictions -r labelsTs -o out --tolerance-mm abc": "--tolerance-mm: expected a number, "
    "got 'abc'",
    "-p predictions -r labelsTs -o out --tol 2": "unknown option --tol; did you mean "
    "--tolerance-mm?",
    "-p predictions --gt labelsTs -o out": "unknown option --gt; did you mean --ref?",
    "-p predictions -r labelsTs -o out --names A": "--names: expected 2 values, got 1: A",
    "-p predictions -r labelsTs -o out --names A B": "--names: expected --compare with it, got no "
    "--compare",
    "-p predictions -r labelsTs -o out --definitions voxels": "--definitions: expected voxel or "
    "surfel, got 'voxels'; did you mean voxel?",
    "-p predictions -r labelsTs -o out --pixel-size 1": "--pixel-size: expected auto, file or "
    "ignore, got '1'",
    "-p predictions -r labelsTs -o out --compare baselin": "--compare: expected predictions or an "
    "evaluation, got baselin, which does not exist",
    "-p predictions -r labelsTs -o out --part 0/8": "--part: expected I/N with I from 1 to N, such "
    "as 2/8, got 0/8",
    "-p predictions -r labelsTs -o out --shard 2": "unknown option --shard; --part 2/8 takes the "
    "second of eight parts",
    "-p predictions -r labelsTs -o out -j 4": "unknown option -j; did you mean --workers?",
    "-p predictions -r labelsTs -o out --overwrit": "unknown option --overwrit; did you mean "
    "--overwrite?",
}
VERBS = "expected check, show, plan, split, convert or cache"
DATA = {
    "": f"{VERBS}, got no command; such as: recycle-data check Dataset123_Name",
    "chek Dataset123_Liver": f"{VERBS}, got chek; did you mean check?",
    "check": "DIR: expected a value, got none; such as: recycle-data check Dataset123_Name",
    "check Dataset12_Liver": "DIR: expected a data set in the nnU-Net raw layout, got "
    "Dataset12_Liver, which does not exist; did you mean Dataset123_Liver?",
    "check -d 4": "unknown option -d; the data set has no option before it: recycle-data check "
    "Dataset123_Name",
    "check --data Dataset123_Liver": "unknown option --data; the data set has no option before it: "
    "recycle-data check Dataset123_Name",
    "check Dataset123_Liver more": "more: expected DIR and options, got one word more; such as: "
    "recycle-data check Dataset123_Name",
    "check Dataset123_Liver --workers all": "--workers: expected a whole number, got 'all'",
    "check Dataset123_Liver --workers 0": "--workers: expected at least 1, got 0",
    "show Dataset123_Liver --num-cases 3": "unknown option --num-cases; did you mean --cases?",
    "split Dataset123_Liver --fold 5": "unknown option --fold; did you mean --folds?",
    "split Dataset123_Liver --test 20": "--test: expected 0 to below 1, got 20",
    "split Dataset123_Liver --test 20%": "--test: expected a number, got '20%'",
    "split Dataset123_Liver --group_by": "--group-by: expected a value, got no value",
    "plan Dataset123_Liver --time 30": f"--time: {A_TIME}, got 30",
    "plan Dataset123_Liver --runtime.threads many": "--runtime.threads: expected a whole number, "
    "got 'many'",
    "convert scans labelsTs": "OUT: expected a value, got none; such as: recycle-data convert "
    "scans masks Dataset123_Name --channels CT",
    "convert -i scans -m labelsTs -o new": "unknown option -i; the folders have no options before "
    "them: recycle-data convert IMAGES MASKS OUT",
    "convert scan labelsTs new": "IMAGES: expected a folder of images, got scan, which does not "
    "exist; did you mean scans?",
}
STUDY = {
    "": f"--out: expected a value, got none; such as: {EXAMPLES['study']}",
    "-o out": "DATA: expected a data set, or --quick without one",
    "Dataset123_Liver": f"--out: expected a value, got none; such as: {EXAMPLES['study']}",
    "Dataset123_Livr -o out": "DATA: expected a data set, got Dataset123_Livr, which does not "
    "exist; did you mean Dataset123_Liver?",
    "--data Dataset123_Liver -o out": "unknown option --data; the data set has no option before "
    "it: recycle-study Dataset123_Name",
    "Dataset123_Liver --quick -o out": "DATA: expected a data set, or --quick without one",
    "Dataset123_Liver -o out --seeds many": "--seeds: expected a whole number, got 'many'",
    "Dataset123_Liver -o out --seed 3": "unknown option --seed; did you mean --seeds?",
    "Dataset123_Liver -o out --strategies recycling": "--strategies: expected recycling_max, "
    "recycling_next, self_conditioning_same, self_conditioning_next, standard or supervised, got "
    "'recycling'; did you mean recycling_max?",
    "Dataset123_Liver -o out --budget 30": f"--budget: {A_TIME}, got '30'",
    "Dataset123_Liver -o out --time 8h": "unknown option --time; did you mean --budget?",
    "Dataset123_Liver -o out --steps 0 5": "--steps: expected numbers of at least 1, got [0, 5]",
    "Dataset123_Liver -o out --sampler ddim": "unknown option --sampler; did you mean --samplers?",
    "Dataset123_Liver -o out --config x.yaml": "unknown option --config; did you mean --settings?",
    "Dataset123_Liver -o out --settings key.yaml": "key.yaml: optim.batchsize: unknown option; did "
    "you mean optim.batch_size?",
    "Dataset123_Liver -o out --settings range.yaml": "range.yaml: model.dropout: expected 0 to "
    "below 1, got 1.5",
    "Dataset123_Liver -o out --settings twice.yaml": "twice.yaml: line 3: expected "
    "YAML, got: seed stands twice",
}
ENTRY = {
    "": "expected train, predict, ensemble, evaluate, study or data, got no command; such as: "
    "recycleseg train --data Dataset123_Name",
    "trian --data x": "expected train, predict, ensemble, evaluate, study or data, got trian; "
    "did you mean train?",
}
TABLES = {
    "recycle-train": TRAIN,
    "recycle-predict": PREDICT,
    "recycle-ensemble": ENSEMBLE,
    "recycle-evaluate": EVALUATE,
    "recycle-study": STUDY,
    "recycle-data": DATA,
    "recycleseg": ENTRY,
}


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [(command, *row) for command, table in TABLES.items() for row in table.items()],
)
def test_a_mistake_gets_the_line_that_helps(
    command: str,
    words: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = sorted(path for path in tmp_path.rglob("*"))
    verb = [] if command == "recycleseg" else [command.removeprefix("recycle-")]
    assert main([*verb, *shlex.split(words)]) == 2
    said = capsys.readouterr()
    assert said.err == f"{command}: error: {line.replace('{cwd}', str(tmp_path))}\n"
    assert said.out == ""
    assert sorted(path for path in tmp_path.rglob("*")) == before
