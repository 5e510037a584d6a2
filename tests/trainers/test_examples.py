"""The programs of docs/examples, run as they stand there: loops and trainers that are not ours."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from guda_lightning import CounterfactualStore, ELBOAttributionCallback, FullModel, ScoreTable
from guda_lightning.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GROUPS = ("columns", "rows", "spots")
pytestmark = pytest.mark.filterwarnings(
    # What the two packages of Lightning recommend to somebody who sits before a screen.
    "ignore:.*litlogger",
    "ignore:.*[tT]ensor[bB]oard",
    "ignore:.*GPU available",
    "ignore:Found .* module.s. in eval mode",
    "ignore:The number of training batches .* is smaller",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:Trying to infer the `batch_size`",
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Imports one of the programs, in a folder of its own."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def top(table: ScoreTable, query: str = "0") -> str:
    assert set(table.groups) == set(GROUPS)
    scores = table.select(weighting="elbo")
    return scores.groups[int(scores.matrix()[scores.queries.index(query)].argmax())]


def test_a_module_and_trainer_of_lightning(example: Any) -> None:
    program = example("own_module")
    module = program.TutorialModule()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    table, callback = program.main(Path("mine"), module, fit_steps=30, unlearn_steps=6)
    assert top(table) == "spots"
    assert ScoreTable.load("mine/run/scores.parquet").table.equals(table.table)
    assert set(callback.table.groups) == set(GROUPS)
    records = CounterfactualStore("mine/run/store").records()
    full = FullModel.of(module, denoiser="unet", scheduler="noise_scheduler")
    assert [(record.full_hash, record.steps) for record in records] == [(full.hash, 6)] * 3
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_fabric_loop(example: Any) -> None:
    assert top(example("fabric_loop").main(Path("run"), fit_steps=30, unlearn_steps=6)) == "rows"


def test_an_accelerate_loop_that_unlearns_by_the_formulas(example: Any) -> None:
    table = example("accelerate_loop").main(Path("run"), fit_steps=30, unlearn_steps=6)
    assert top(table) == "columns"
    assert table.methods == ("retrack",)
    records = CounterfactualStore("run/store").records()
    assert [(record.groups, record.input_shape) for record in records] == [((g,), (1, 8, 8)) for g in GROUPS]


def test_a_transformer_of_flow_matching(example: Any) -> None:
    table = example("flow_transformer").main(Path("run"), fit_steps=20, guide_steps=60)
    assert table.methods == ("guidance",)
    assert top(table) == "spots"


def test_a_module_and_trainer_of_pytorch_lightning(example: Any) -> None:
    callback = example("pytorch_lightning_module").main(Path("run"), fit_steps=20, guide_steps=60)
    assert set(callback.table.groups) == set(GROUPS)
    assert len(callback.table.queries) == 6  # every twelfth of 72


def stated(file: str, program: str) -> list[str]:
    """The arguments of the command in the first line of a configuration."""
    line = (EXAMPLES / file).read_text().splitlines()[0]
    assert line.startswith(program)
    return [str(EXAMPLES / word) if word == file else word for word in line.removeprefix(program).split()]


# Lightning 2.6 with jsonargparse 4.49 and later.
@pytest.mark.filterwarnings("ignore:(?s).*(v5.0.0|Jsonargparse):DeprecationWarning")
def test_a_command_line_that_is_not_ours(example: Any, tmp_path: Path) -> None:
    """Its own ``fit``, our ``guide`` of what that saved, its own ``validate`` with the callback."""
    example("my_pictures").draw_pictures(Path("pictures"))
    own = example("own_cli")
    trainer = ["--trainer.max_steps=4", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    fitted = own.main(["fit", "--data.folder=pictures", *trainer, "--trainer.enable_progress_bar=false"])
    fitted.trainer.save_checkpoint("my.ckpt")
    quick = ["--classifier.steps=20", "--classifier.batch_size=64"]
    assert main([*stated("guide_own_cli.yaml", "# guda "), *quick]) == 0
    Path("config.yaml").unlink()  # of the fit: this LightningCLI does not write over it
    arguments = stated("own_cli.yaml", "# python own_cli.py ")
    watched = own.main([*arguments, "--trainer.accelerator=cpu"]).trainer
    (callback,) = (c for c in watched.callbacks if isinstance(c, ELBOAttributionCallback))
    assert callback.table is not None
    for column, group in enumerate(callback.table.groups):
        mean = float(callback.table.matrix()[:, column].mean())
        assert float(watched.callback_metrics[f"influence/{group}"]) == pytest.approx(mean, rel=1e-6)


def test_the_documentation_shows_every_program() -> None:
    shown = "".join(page.read_text() for page in EXAMPLES.parent.glob("*.md"))
    for program in EXAMPLES.glob("*.*"):
        assert f"{{literalinclude}} examples/{program.name}" in shown
