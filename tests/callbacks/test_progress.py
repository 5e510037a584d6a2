"""What a person sees while a stage runs: one line a training, on a terminal and in a file."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelSummary, TQDMProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel, RandomIterableDataset
from torch.utils.data import DataLoader

from guda_lightning import DiffusionModule
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.callbacks.progress import StepProgress, quiet
from guda_lightning.cli.main import main
from guda_lightning.makers.costs import TimeLeft
from guda_lightning.progress_bar import progress_bar
from terminal import Terminal
from toys import shades, tiny_unet

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller")
CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml", "--trainer.enable_progress_bar", "true"]
NOISE = ("/-2", "v_num", "FLOPs", "Params", "Epoch", "params")


def seen(text: str) -> list[str]:
    """All that a terminal showed, one drawing each."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal for standard error, with every update drawn."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("guda_lightning.progress_bar._SECONDS", 0.0)
    return terminal


def test_one_line_a_training_and_one_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal, run = watched(monkeypatch), str(tmp_path / "run")
    assert main(["fit", *SHARED, "--run", run]) == 0
    out, (drawn, left) = capsys.readouterr().out, (seen(terminal.getvalue()), terminal.lines())
    said = [line.split(":")[0] for line in out.splitlines()]
    assert said == ["fit", "fit"]  # the cost, and what it did cost
    assert not any(noise in text for noise in NOISE for text in (out, *drawn))
    line = re.compile(
        r"fit  \[[ #]{20}\]  \d+/12 steps(  [\d.,]+(/s| s each))?(  loss [\d.]+)?(  (\d+:)*\d+ left)?"
    )
    assert all(line.fullmatch(text) for text in drawn), drawn
    assert "12/12 steps" in drawn[-1] and "loss" in drawn[-1] and "left" in drawn[-1]
    assert not any(left)  # the line went, the summary stays

    unlearn = ["unlearn", *SHARED, "-c", f"{CONF}/zero_target.yaml", "--run", run, "--groups", "3,7"]
    assert main(unlearn) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        "unlearn: 3 done (1 of 2)",
        "unlearn: 7 done (2 of 2)",
    ]
    titles = {text.split("  ")[0] for text in seen(terminal.getvalue())}
    assert titles == {"fit", "unlearn 3", "unlearn 7"}


def test_a_file_gets_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("sample", "images", 3, lines=True) as bar:
        bar.update()
        bar.reset(total=5)
        bar.update()
    assert capsys.readouterr().err == ""  # the work was short
    monkeypatch.setattr("guda_lightning.progress_bar._LINE_SECONDS", 0.0)
    with progress_bar("sample", "images", 3, initial=1, lines=True) as bar:
        bar.update()
    assert re.fullmatch(
        r"sample  \[#{6}[ #] {13}\]  1/3 images\nsample  \[#{13}[ #]{1} {6}\]  2/3 images  .*/s  0:00 left\n",
        capsys.readouterr().err,
    )
    for options in ({"lines": False}, {"lines": True, "shown": False}):
        with progress_bar("sample", "images", 3, **options) as bar:  # type: ignore[arg-type]
            bar.update()
    assert capsys.readouterr().err == ""


class Interrupt(Callback):
    """Presses Ctrl-C after some steps."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            raise KeyboardInterrupt


def test_a_training_without_an_end_and_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = watched(monkeypatch)

    def train(folder: Path, *callbacks: Callback, **options: Any) -> list[str]:
        before, checkpoint = len(terminal.getvalue()), ResumeCheckpoint(folder)
        module = DiffusionModule(tiny_unet(), DDPMScheduler(20))
        trainer = Trainer(
            **quiet(
                {
                    "default_root_dir": folder,
                    "accelerator": "cpu",
                    "logger": False,
                    "limit_val_batches": 1,
                    "num_sanity_val_steps": 1,
                    "callbacks": [*callbacks, checkpoint],
                    **options,
                },
                "fit",
            )
        )
        with suppress(SystemExit):
            trainer.fit(module, shades(batch_size=8), ckpt_path=checkpoint.path, weights_only=True)
        assert not any(terminal.lines())
        return seen(terminal.getvalue()[before:])

    endless = train(tmp_path / "endless", Interrupt(), max_epochs=-1)
    assert endless[-1].startswith("fit  7 steps  ") and "left" not in endless[-1]
    train(tmp_path / "again", Interrupt(), max_epochs=2)
    first, *_, last = train(tmp_path / "again", max_epochs=2)  # from the end of the first epoch, of six steps
    assert first.endswith("]  6/12 steps") and "]  12/12 steps  " in last


def test_a_loader_without_length_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    trainer = Trainer(**quiet({"default_root_dir": tmp_path, "limit_val_batches": 0, **options}, "fit"))
    trainer.fit(BoringModel(), DataLoader(RandomIterableDataset(32, 3)))
    assert [line.split("  ")[1] for line in seen(terminal.getvalue())][-1] == "3 steps"


def test_a_validation_shows_its_batches(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    assert main(["validate", *SHARED, "--run", str(finished_run)]) == 0
    drawn = seen(terminal.getvalue())
    assert re.fullmatch(r"validate  \[#{20}\]  (\d+)/\1 batches.*", drawn[-1])
    assert not any(terminal.lines())


def test_what_the_user_configured_stays() -> None:
    bar, summary = TQDMProgressBar(), ModelSummary()
    assert quiet({"callbacks": [bar, summary]}, "fit") == {
        "callbacks": [bar, summary],
        "enable_model_summary": False,  # beside the one that is configured
    }
    assert quiet({"callbacks": bar, "enable_model_summary": True}, "fit") == {
        "callbacks": [bar],
        "enable_model_summary": True,
    }
    assert quiet({"enable_progress_bar": False}, "fit")["callbacks"] == []
    (line,) = quiet({"enable_progress_bar": None}, "fit")["callbacks"]
    assert isinstance(line, StepProgress)


def test_time_left_follows_from_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 110.0, 140.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    left = TimeLeft(3)
    assert [left.after_one(), left.after_one()] == ["; about 20 s left", "; about 20 s left"]
    monkeypatch.undo()
    assert left.after_one() == ""
