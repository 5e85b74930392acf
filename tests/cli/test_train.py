"""``train.py``: interrupted runs resume to the same result, the best weights are saved, and errors take one line."""

import csv
import inspect
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import pytorch_lightning
import torch
import yaml
from safetensors.torch import load_file

from milan.cli import train as program
from milan.cli.train import main, train
from milan.cli.train_config import OWN_OPTIONS, DataConfig, ModelConfig, TrainerConfig
from milan.describers.milan import Milan
from milan.errors import BadInput
from milan.models import Captioner, Prior
from milan.models.data_module import MilannotationsDataModule
from milan.models.lightning_modules import compute_bleu
from milan.models.training_callbacks import ResumeCheckpoint
from tests.models.test_data_module import ENCODER, annotated, data
from tests.programs import Program, start_ranks

ROOT = Path(__file__).parents[2]
KINDS = ("prior", "captioner")


def test_options_are_those_of_the_classes_that_they_configure() -> None:
    defaults = {name: each.default for name, each in inspect.signature(MilannotationsDataModule).parameters.items()}
    assert {**asdict(DataConfig()), "folders": inspect.Parameter.empty} == defaults
    assert TrainerConfig().arguments.keys() <= inspect.signature(pytorch_lightning.Trainer).parameters.keys()
    values = {"attention": 1, "gate": "scalar", "double_stochastic": 1.0, "layers": 1}
    for kind, cls in (("captioner", Captioner), ("prior", Prior)):
        own = {name: values[name] for name in OWN_OPTIONS[kind]}
        parameters = inspect.signature(cls).parameters
        assert ModelConfig(kind, **own).arguments.keys() | {"words", "features", "encoder"} >= parameters.keys()
        assert ModelConfig(kind, **own).arguments.keys() <= parameters.keys()
        common = ModelConfig(kind).arguments
        assert common == {name: parameters[name].default for name in common}


def test_an_option_of_the_other_kind_is_refused(capfd: pytest.CaptureFixture) -> None:
    assert main(["fit", "--model.kind=prior", "--model.attention=3"]) == 2
    assert "model.attention is an option of the captioner and model.kind is prior" in capfd.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotated(tmp_path_factory.mktemp("annotated") / "set")


def arguments(kind: str, folder: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--model.embedding=8", "--model.hidden=12", *(["--model.attention=8"] if kind == "captioner" else [])]
    encoder = ENCODER if kind == "captioner" else "null"
    silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    quiet = [*silent, "--trainer.log_every_n_steps=1"]
    paths = [f"--data.folders=['{folder}']", f"--data.encoder={encoder}", "--data.batch_size=32", f"--out={out}"]
    return [
        "fit",
        f"--config={ROOT / 'configs' / f'{kind}.yaml'}",
        *paths,
        *sizes,
        "--trainer.max_epochs=3",
        *quiet,
        *more,
    ]


@pytest.fixture(scope="module", params=KINDS)
def finished(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """An uninterrupted run: 3 epochs of 4 batches."""
    out = tmp_path_factory.mktemp("finished") / request.param
    train(arguments(request.param, folder, out))
    return request.param, out


def metrics(out: Path) -> str:
    return (out / "logs" / "csv" / "metrics.csv").read_text()


def same(one: Path, other: Path) -> bool:
    """Return whether two runs have the same weights, bit for bit, and the same rows of metrics."""
    assert metrics(one) == metrics(other)
    weights, others = (load_file(out / "model.safetensors") for out in (one, other))
    return weights.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in weights.items())


def stopped_at(step: int, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the batch of a step, and stop with an error."""
    begin = ResumeCheckpoint.on_train_batch_start

    def stop(self: ResumeCheckpoint, trainer: object, *rest: object) -> None:
        begin(self, trainer, *rest)
        if trainer.global_step == step:
            raise RuntimeError("stopped")

    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_start", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        train(words)
    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_start", begin)


@pytest.mark.parametrize("steps", [(1, 3), (8, 4), (6, 11)])
def test_a_run_stopped_at_any_step_ends_with_the_same_weights_and_rows(
    steps: tuple[int, int], finished: tuple[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 is the last of an epoch, 4 and 8 are the first of one; each model is stopped at three of the six."""
    kind, whole = finished
    step = steps[KINDS.index(kind)]
    words = arguments(kind, folder, tmp_path / "run", "--checkpoint_seconds=0")
    stopped_at(step, words, monkeypatch)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    train(words)
    assert same(tmp_path / "run", whole)


def test_a_run_with_one_batch_per_epoch_resumes_twice(folder: Path, tmp_path: Path, monkeypatch) -> None:
    runs = {name: arguments("prior", folder, tmp_path / name, "--data.batch_size=9999") for name in ("whole", "run")}
    train(runs["whole"])
    words = [*runs["run"], "--checkpoint_seconds=0"]
    for step in (1, 2):
        stopped_at(step, words, monkeypatch)
        assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    with (tmp_path / "run" / "logs" / "csv" / "metrics.csv").open("a") as file:
        file.write("1,,2.5,1")  # cut off by a kill
    train(words)
    assert same(tmp_path / "run", tmp_path / "whole")


def kill(programs: list[Program], out: Path) -> None:
    """Kill the processes of a run after its first checkpoint."""
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in programs:
        each.send(signal.SIGKILL)
    assert [each.wait() for each in programs] == [-signal.SIGKILL] * len(programs), programs[0].err
    assert not (out / "model.safetensors").exists(), "it was killed too late for this to be a test"


def test_a_killed_run_ends_with_the_same_weights(finished: tuple[str, Path], folder: Path, tmp_path: Path) -> None:
    kind, whole = finished
    out = tmp_path / "run"
    words = arguments(kind, folder, out, "--checkpoint_seconds=0")
    kill([Program(main, words, folder=tmp_path / "killed")], out)
    again = Program(main, words, folder=tmp_path / "again")
    assert again.wait() == 0, again.err
    assert same(out, whole)
    assert not [file for file in out.rglob("*") if file.name.startswith(".partial")]


def test_a_killed_run_of_two_processes_ends_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    both = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--checkpoint_seconds=0"]
    words = {name: arguments("captioner", folder, tmp_path / name, *both) for name in ("whole", "killed")}
    whole = start_ranks(main, words["whole"], folder=tmp_path / "0")
    assert [each.wait() for each in whole] == [0, 0], whole[0].err
    kill(start_ranks(main, words["killed"], folder=tmp_path / "1"), tmp_path / "killed")
    # Here Lightning starts the second process.
    done = subprocess.run([sys.executable, "train.py", *words["killed"]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_ctrl_c_prints_how_to_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ResumeCheckpoint, "on_train_batch_start", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(arguments("prior", folder, tmp_path / "run")) == 130
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    assert "run the same command again" in capfd.readouterr().err


def test_the_weights_of_the_best_epoch_are_saved(folder: Path, tmp_path: Path) -> None:
    """The learning rate is so large that the held-out loss soon rises: the last weights are not the best."""
    out = tmp_path / "run"
    train([*arguments("prior", folder, out), "--model.learning_rate=1", "--patience=2", "--trainer.max_epochs=30"])
    rows = csv.DictReader(metrics(out).splitlines())
    losses = [float(row["held_out_loss"]) for row in rows if row["held_out_loss"]]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 2, "two epochs without a better one, then it stops"
    model, annotations = Prior.from_pretrained(out), data(folder, encoder=None, batch_size=32)
    with torch.no_grad():
        batches = list(annotations.val_dataloader())
        tokens = [int((batch.tokens != model.vocabulary.pad).sum()) for batch in batches]
        loss = sum(float(model.loss(batch)) * count for batch, count in zip(batches, tokens, strict=True)) / sum(tokens)
    assert loss == pytest.approx(min(losses), rel=1e-4)
    assert loss < losses[-1] - 1e-3


def test_the_saved_captioner_has_the_bleu_of_its_card(folder: Path, finished: tuple[str, Path]) -> None:
    kind, out = finished
    if kind == "prior":
        return
    model, annotations = Captioner.from_pretrained(out), data(folder)
    held_out = annotations.split.held_out
    texts = model.decode_greedily(annotations.load_features(held_out))
    assert compute_bleu(texts, [list(one.texts) for one in held_out]) == pytest.approx(
        model.trained_on["bleu on held-out units"], abs=1e-3
    )
    assert model.encoder["spec"] == ENCODER
    assert model.vocabulary == annotations.vocabulary


def test_training_learns_the_colours(folder: Path, tmp_path: Path) -> None:
    """The descriptions of held-out units name the right colours."""
    out = tmp_path / "run"
    longer = ["--trainer.max_epochs=24", "--patience=24", "--model.hidden=32", "--model.learning_rate=1e-2"]
    train([*arguments("captioner", folder, out), *longer])
    model, annotations = Captioner.from_pretrained(out), data(folder)
    held_out = annotations.split.held_out
    texts = model.decode_greedily(annotations.load_features(held_out))
    assert [text.split()[0] for text in texts] == [one.texts[0].split()[0] for one in held_out]


def test_a_finished_run_is_not_trained_again(
    finished: tuple[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: object
) -> None:
    kind, out = finished
    before = (out / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: pytest.fail("trained again"))
    train(arguments(kind, folder, out))
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert "holds the finished model" in capfd.readouterr().err


def test_without_arguments_prior_and_captioner_are_trained_to_describe_together(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "configs").mkdir()
    for kind, sizes in (("prior", {}), ("captioner", {"attention": 8})):
        config = yaml.safe_load((ROOT / "configs" / f"{kind}.yaml").read_text())
        config["model"] |= {"embedding": 8, "hidden": 12, **sizes}
        config["data"] |= {"folders": [str(folder)], "encoder": ENCODER if kind == "captioner" else None}
        config["trainer"]["max_epochs"] = 1
        (tmp_path / "configs" / f"{kind}.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(program, "locate_packaged_data", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    printed = capfd.readouterr()
    assert printed.out.splitlines()[-1].endswith(
        "python describe.py --settings.captioner runs/train/captioner --settings.prior runs/train/prior"
    )
    assert "epoch 1 of at most 1: held_out_loss" in printed.err
    assert "epoch 1 of at most 1: bleu" in printed.err
    assert "GPU" not in printed.err
    captioner, prior, _ = Milan(captioner="runs/train/captioner", prior="runs/train/prior").models
    assert captioner.vocabulary == prior.vocabulary


def test_other_settings_in_the_same_folder_are_refused(
    finished: tuple[str, Path], folder: Path, capfd: pytest.CaptureFixture
) -> None:
    kind, out = finished
    with pytest.raises(BadInput, match=r"model.dropout was 0.5, is 0.25"):
        train(arguments(kind, folder, out, "--model.dropout=0.25"))
    assert main(arguments(kind, folder, out, "--data.seed=7")) == 2
    assert "data.seed was 0, is 7" in capfd.readouterr().err


def test_validate_prints_the_metric_of_the_saved_model_and_of_a_checkpoint(
    finished: tuple[str, Path], folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    _, out = finished
    facts = json.loads((out / "config.json").read_text())["trained_on"]
    [metric] = [name for name in facts if "on held-out units" in name]
    for more in ([], [f"--ckpt_path={out / 'checkpoints' / 'best.ckpt'}"]):
        assert main(["validate", f"--config={out / 'config.yaml'}", *more]) == 0
        assert capfd.readouterr().out.startswith(f"{metric}: {facts[metric]:.4g}; ")
    assert main(["validate", f"--config={out / 'config.yaml'}", "--data.minimum=40"]) == 2
    assert "was trained with other words" in capfd.readouterr().err
    assert main(["validate", f"--config={out / 'config.yaml'}", "--ckpt_path=no.ckpt"]) == 2
    assert "no checkpoint no.ckpt" in capfd.readouterr().err


@pytest.mark.parametrize(
    "form",
    [
        {"model": {"class_path": "milan.models.Prior", "init_args": {"hidden": 8}}},
        {"data": {"class_path": "milan.models.data_module.MilannotationsDataModule", "init_args": {"encoder": None}}},
    ],
)
def test_a_file_of_options_in_the_former_form_says_what_to_write(
    form: dict, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "former.yaml").write_text(yaml.safe_dump(form))
    with pytest.raises(SystemExit) as end:
        main(["fit", f"--config={tmp_path / 'former.yaml'}"])
    assert end.value.code == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "model.kind: captioner or prior" in line


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_help_imports_no_torch(command: str) -> None:
    code = f"import sys; from milan.cli.train import main\ntry: main([{command!r}, '--help'])\n"
    code += "finally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--data.folders" in done.stdout


def test_the_saved_config_reproduces_the_run(finished: tuple[str, Path], tmp_path: Path) -> None:
    _, out = finished
    assert "words" not in yaml.safe_load((out / "config.yaml").read_text())["model"]
    train(["fit", f"--config={out / 'config.yaml'}", f"--out={tmp_path / 'again'}"])
    assert same(out, tmp_path / "again")


def test_a_captioner_without_an_encoder_is_an_error(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert main(arguments("captioner", folder, tmp_path / "run", "--data.encoder=null")) == 2
    assert "a captioner needs features; give data.encoder" in capfd.readouterr().err


def test_an_unknown_option_names_the_nearest_one(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments("prior", folder, tmp_path / "run", "--pattience=3"))
    assert end.value.code == 2
    assert "nearest: --patience" in capfd.readouterr().err
