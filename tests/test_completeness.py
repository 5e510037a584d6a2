"""A stage is complete only if it did what its configuration says, and records claim no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from PIL import Image

import struck
from guda_lightning import UnlearnModule
from guda_lightning.cli.main import main
from guda_lightning.data import GroupDataModule, ImageFolder
from guda_lightning.diffusion.training import early_stop, rare_hparams, stopped_by
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.makers.trainers import TrainerFactory
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import write_json
from guda_lightning.unlearning import Finetune
from toys import message, quiet_trainer, shades, tiny_full
from warm import Server

CONF = Path(__file__).parent / "conf"
STAGES = {"fit": [], "retrain": [], "unlearn": ["unlearn"], "guide": ["guide"], "sample": ["sample"]}
EARLY = ("EarlyStopping", "monitor=train/loss", "patience=1", "min_delta=100")
STOPPED = "EarlyStopping: Monitored metric train/loss did not improve in the last 1 records."


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def command(stage: str, run: Path, *arguments: str) -> list[str]:
    files = [CONF / f"{name}.yaml" for name in ["digits", *STAGES[stage]]]
    return [stage, *(part for file in files for part in ("-c", str(file))), "--run", str(run), *arguments]


def callback(name: str, *arguments: str) -> list[str]:
    options = [f"--trainer.callbacks.{argument}" for argument in arguments]
    return [f"--trainer.callbacks+={name}", *options]


def record(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "full" / "record.json").read_text())
    return read


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def other(run: Path, key: str, found: object, expected: object) -> str:
    return (
        f"error: {run}/full was made with another configuration\n"
        f"  found:    trainer.{key} = {found}\n"
        f"  expected: trainer.{key} = {expected}\n"
        f"  fix:      use another --run, restore the configuration, or remove {run}/full\n"
    )


def test_data_that_changed_since_are_not_what_the_model_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def picture(name: str, shade: int) -> None:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(path)

    for number in range(4):
        picture(f"{'ab'[number % 2]}/{number}.png", 60 * number)
    source = {"class_path": "guda_lightning.data.ImageFolder", "init_args": {"path": f"{tmp_path}/images"}}
    config = tmp_path / "x.yaml"
    config.write_text(json.dumps({"data": {"init_args": {"source": source, "batch_size": 2}}}))
    fit = command("fit", tmp_path / "run", "-c", str(config), "--trainer.max_steps", "2")
    assert main(fit) == main(fit) == main(fit) == 0
    skipped = f"fit: {tmp_path}/run/full is complete, skipped\n"
    assert capsys.readouterr().out.endswith(2 * skipped)
    before = state(tmp_path / "run" / "full")
    picture("a/9.png", 9)
    for _ in range(2):
        assert main(fit) == 2
        assert f"error: {tmp_path}/run/full was trained on other data\n" in capsys.readouterr().err
    assert state(tmp_path / "run" / "full") == before
    (tmp_path / "images" / "a" / "9.png").unlink()
    assert main(fit) == 0
    assert capsys.readouterr().out.endswith(skipped)

    unfinished = tmp_path / "run" / "checkpoints" / "fit"
    kept = record(tmp_path / "run")
    write_json(unfinished / "record.json", {"config": {**kept["config"], "data_hash": kept["data_hash"]}})
    (unfinished / "resume").mkdir()
    shutil.rmtree(tmp_path / "run" / "full")
    picture("a/0.png", 9)
    assert main(fit) == 2
    today = GroupDataModule(ImageFolder(tmp_path / "images")).hash
    assert capsys.readouterr().err == (
        f"error: {unfinished} was made with another configuration\n"
        f"  found:    data_hash = {kept['data_hash']}\n"
        f"  expected: data_hash = {today}\n"
        f"  fix:      use another --run, restore the configuration, or remove {unfinished}\n"
    )


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(command("fit", run, "--trainer.fast_dev_run", "true")) == 0
    assert capsys.readouterr().out.endswith("\nfit: dry run of 1 steps, nothing is kept\n")
    assert not run.exists()
    assert main(command("fit", run)) == 0
    assert record(run)["steps"] == 12


@pytest.mark.parametrize(
    ("stage", "options", "trained"),
    [
        ("fit", [], ["fit"]),  # though it is complete
        ("unlearn", ["--groups", "3,7"], ["unlearn 3", "unlearn 7"]),
        ("retrain", ["--groups", "3"], ["retrain 3 seed 0"]),
        ("guide", [], ["guide dense classifier", "guide convolutional classifier (8)"]),
    ],
)
def test_a_dry_run_of_every_stage(
    stage: str, options: list[str], trained: list[str], finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(finished_run)
    assert main(command(stage, finished_run, *options, "--trainer.fast_dev_run", "2")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "dry run" in line]
    assert lines == [f"{name}: dry run of 2 steps, nothing is kept" for name in trained]
    assert state(finished_run) == before


def test_what_trains_nothing_has_no_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        command("sample", tmp_path / "run", "--full", str(tmp_path)),
        ["run", *command("fit", tmp_path / "run")[1:]],  # later stages would miss what the first ones made
    ):
        assert main([*arguments, "--trainer.fast_dev_run", "true"]) == 2
        assert capsys.readouterr().err == (
            "error: guda sample has no dry run\n"
            "  found:    trainer.fast_dev_run = True\n"
            "  expected: a stage that trains, and whose dry run keeps nothing: fit, unlearn, guide, "
            "retrain, ensemble\n"
            "  fix:      leave out trainer.fast_dev_run here\n"
        )


@pytest.mark.parametrize(
    ("options", "key", "found"),
    [
        (["--trainer.overfit_batches", "1"], "overfit_batches", 1),
        (
            callback("EMAWeightAveraging", "decay=0.5"),
            "callbacks",
            "{'EMAWeightAveraging': {'kwargs': {'avg_fn': ",
        ),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:You're using the WeightAveraging callback", "ignore:You requested to overfit"
)
def test_what_changes_a_training_is_another_configuration(
    options: list[str], key: str, found: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("fit", tmp_path / "run", *options)) == 0
    assert main(command("fit", tmp_path / "run", *options)) == 0
    capsys.readouterr()
    assert main(command("fit", tmp_path / "run")) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(other(tmp_path / "run", key, found, None).partition("\n  expected")[0])
    assert f"\n  expected: trainer.{key} = None\n" in shown


def test_early_stopping_is_an_end_that_the_record_tells(
    warm: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main(command("fit", run, *callback(*EARLY))) == 0
    kept = record(run)
    assert (kept["steps"], kept["config"]["trainer"]["max_steps"]) == (8, 12)
    assert kept["stopped"].startswith(STOPPED)
    assert f" evaluations, 8 steps ({STOPPED} " in capsys.readouterr().out
    stopping = {"monitor": "train/loss", "patience": 1, "min_delta": -100.0, "mode": "min"}
    assert kept["config"]["trainer"]["callbacks"] == {
        "EarlyStopping": {**stopping, "strict": True, "check_finite": True}
    }
    assert main(command("fit", run)) == 2  # without it
    # Killed once it has stopped, it does not train on.
    with warm.process(
        tmp_path / "log.txt",
        struck.guda,
        command("fit", again, *callback(*EARLY)),
        1024,
        "SIGKILL",
        1,
        "full",
    ) as process:
        assert process.wait() == -9
    assert not (again / "full").exists()
    assert main(command("fit", again, *callback(*EARLY))) == 0
    assert "going on from" in capsys.readouterr().out
    assert {name: record(again)[name] for name in ("steps", "full_hash", "network_evaluations")} == {
        name: kept[name] for name in ("steps", "full_hash", "network_evaluations")
    }


def test_counterfactuals_tell_it_too(finished_run: Path) -> None:
    early = callback("EarlyStopping", "monitor=unlearn/loss", "patience=0", "min_delta=100")
    stores = [set((finished_run / "store").iterdir())]
    assert main(command("unlearn", finished_run, "--groups", "3", "--steps", "40", *early)) == 0
    (made,) = set((finished_run / "store").iterdir()) - stores[0]
    kept = json.loads((made / "record.json").read_text())
    assert kept["steps"] < kept["hparams"]["steps"] == 40
    assert kept["stopped"].startswith("EarlyStopping: Monitored metric unlearn/loss did not improve")
    assert kept["hparams"]["callbacks"]["EarlyStopping"]["patience"] == 0


def test_what_stops_a_training_otherwise_does_not_complete_it(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command("fit", run, *callback("own_callbacks.Impatient"))) == 2  # amid the second epoch
    assert capsys.readouterr().err.endswith(
        "error: the training has stopped before its end\n"
        "  found:    6 of 12 (max_steps)\n"
        "  expected: all steps or epochs, or an end by EarlyStopping or max_time\n"
        "  fix:      remove what sets trainer.should_stop, a callback or the module, or derive it from "
        "Lightning's EarlyStopping, which counts as an end; the same command goes on from the last whole "
        "epoch\n"
    )
    assert not (run / "full").exists()
    assert main(command("fit", run)) == 0
    assert "going on from" in capsys.readouterr().out
    kept, whole = record(run), record(finished_run)
    assert (kept["steps"], kept["full_hash"]) == (12, whole["full_hash"])  # no batch of an epoch is lost
    assert kept["network_evaluations"] == whole["network_evaluations"]


def test_no_batches_are_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("fit", tmp_path / "run", "--trainer.limit_train_batches", "0")) == 2
    assert capsys.readouterr().err.endswith(
        "error: the training has stopped before its end\n"
        "  found:    0 of 12 (max_steps)\n"
        "  expected: all steps or epochs, or an end by EarlyStopping or max_time\n"
        "  fix:      leave out --trainer.limit_train_batches, or raise it: there are no batches\n"
    )
    assert not (tmp_path / "run" / "full").exists()


def test_a_time_that_alone_ends_a_training_belongs_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = command("fit", tmp_path / "run", "--trainer.max_steps", "-1")
    assert main(fit) == 2
    assert capsys.readouterr().err.endswith(
        "error: the training has no end\n"
        "  found:    max_steps -1, max_epochs -1, no max_time, no EarlyStopping\n"
        "  expected: one of them\n"
        "  fix:      pass --trainer.max_steps N or --trainer.max_epochs N\n"
    )
    assert main([*fit, "--trainer.max_time", "00:00:00:00"]) == 0
    kept = record(tmp_path / "run")
    assert (kept["stopped"], kept["config"]["trainer"]["max_time"]) == ("max_time", 0.0)
    assert kept["steps"] == kept["network_evaluations"] == 0
    assert main([*fit, "--trainer.max_time", "00:00:00:01"]) == 2
    assert capsys.readouterr().err == other(tmp_path / "run", "max_time", 0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"max_epochs": 3, "limit_val_batches": 0, "min_steps": 2, "max_time": "00:01:00:00"}, {}),
        ({"overfit_batches": 0.5}, {"overfit_batches": 0.5}),
        ({"callbacks": [ModelCheckpoint()], "enable_checkpointing": True}, {}),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 1, 10: 2, 9: 3})], "min_epochs": 2},
            {
                "callbacks": {"GradientAccumulationScheduler": {"scheduling": {"0": 1, "9": 3, "10": 2}}},
                "min_epochs": 2,
            },
        ),
        (
            {"callbacks": [StochasticWeightAveraging(0.1, 2)]},
            {
                "callbacks": {
                    "StochasticWeightAveraging": {
                        "swa_lrs": 0.1,
                        "swa_epoch_start": 2,
                        "annealing_epochs": 10,
                        "annealing_strategy": "cos",
                    }
                }
            },
        ),
    ],
)
def test_what_is_rarely_set_is_in_no_other_record(
    arguments: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    found = rare_hparams(quiet_trainer(tmp_path, **arguments))
    for described in found.get("callbacks", {}).values():
        described.pop("avg_fn", None)  # a function of Lightning's
    assert found == expected


def test_callbacks_differ_by_what_their_functions_hold(tmp_path: Path) -> None:
    def of(one: Callback) -> dict[str, Any]:
        return rare_hparams(quiet_trainer(tmp_path, callbacks=[one]))

    assert of(EMAWeightAveraging(decay=0.5)) == of(EMAWeightAveraging(decay=0.5))
    assert of(EMAWeightAveraging(decay=0.5)) != of(EMAWeightAveraging(decay=0.9))
    assert of(EarlyStopping("loss", verbose=True)) == of(EarlyStopping("loss"))
    later = EarlyStopping("loss", check_on_train_epoch_end=False)
    assert of(EarlyStopping("loss", check_on_train_epoch_end=True)) == of(EarlyStopping("loss")) != of(later)


@pytest.mark.parametrize("every", [1, 2])
def test_a_training_does_not_change_what_identifies_it(every: int, tmp_path: Path) -> None:
    stopper = EarlyStopping("loss")
    trainer = quiet_trainer(tmp_path, callbacks=[stopper], check_val_every_n_epoch=every)
    before = rare_hparams(trainer)
    stopper.setup(trainer, trainer.lightning_module, "fit")
    assert rare_hparams(trainer) == before


class Everyone(Ranks):
    """Two processes as the second sees them, of which the first has said something else."""

    def broadcast(self, value: Any) -> Any:
        return "max_time"

    def all_gather(self, value: Any) -> list[Any]:
        return [[], value]


def test_processes_agree_on_what_has_ended_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopper = EarlyStopping("loss")
    trainer = quiet_trainer(
        tmp_path, max_epochs=-1, max_time="00:01:00:00", callbacks=[stopper]
    )  # not over here
    with pytest.raises(ConfigError, match=r"^the training has stopped before its end\n"):
        stopped_by(trainer)
    monkeypatch.setattr(Ranks, "of", lambda _: Everyone(1, 2))
    assert stopped_by(trainer) == "max_time"
    assert early_stop(trainer) is None
    stopper.stopping_reason_message = "not\nfinite"
    assert early_stop(trainer) == "EarlyStopping: not finite"


def test_random_groups_are_made_as_real_ones(tmp_path: Path) -> None:
    def silent(*callbacks: Callback) -> dict[str, Any]:
        return dict(TrainerFactory(RunFolder(tmp_path), {"callbacks": list(callbacks)}).silent().recipe)

    stopper = EarlyStopping("loss")
    shared = {"logger": False, "enable_progress_bar": False}
    assert silent(ModelCheckpoint()) == {**shared, "callbacks": [], "limit_val_batches": 0}
    assert silent(stopper, ModelCheckpoint()) == {**shared, "callbacks": [stopper]}


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_a_student_of_a_dry_run_is_not_stored(tmp_path: Path) -> None:
    student = UnlearnModule(tiny_full(), Finetune(), ["dark"])
    quiet_trainer(tmp_path, fast_dev_run=True).fit(student, datamodule=shades().unlearning(["dark"]))
    expected = message(
        "only a student that has unlearned can be stored",
        "a dry run (fast_dev_run)",
        "a training to its end",
        "call trainer.fit(module, datamodule=data.unlearning(groups)) first",
    )
    with pytest.raises(ConfigError, match=expected):
        student.save(tmp_path / "store")
    assert not (tmp_path / "store").exists()
