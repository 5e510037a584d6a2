"""Ensembles from ``guda ensemble`` to ``guda evaluate``: members, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.counterfactuals.ensemble import EnsemblePlan
from guda_lightning.evaluation.comparison import ENSEMBLE as NOTE
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.evaluation.yardsticks import pack_run
from guda_lightning.functional.ablation import codes
from guda_lightning.report.agreement_verdicts import ONE_ENSEMBLE
from guda_lightning.scores import ScoreTable, stored_errors
from guda_lightning.scores.kinds import Ensemble
from guda_lightning.stages.ensemble import _as_retraining
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.yardsticks import Yardstick
from toys import message
from wandb_files import runs

CONF = Path(__file__).parent.parent / "conf"


def command(stage: str, run: Path, *arguments: str) -> list[str]:
    """A stage on the tiny digits."""
    return [stage, "-c", f"{CONF}/digits.yaml", "--run", str(run), *arguments]


def scored(run: Path, *arguments: str) -> list[str]:
    """Scores by the ensemble."""
    return command("attribute", run, "-c", f"{CONF}/ensemble.yaml", *arguments)


def test_an_ensemble_is_trained_scored_compared_and_shown(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(finished_run)
    logger = ["--trainer.logger", "lightning.pytorch.loggers.WandbLogger", "--trainer.logger.offline", "true"]
    assert main(command("ensemble", run.root, *logger, "--trainer.logger.save_dir", str(tmp_path))) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "ensemble: 6 members, 3 of them without each of 10 groups; as many steps as 6 trainings, against 10 "
        "retrainings without one group each\nensemble: 6 models x 12 steps of 16 images: about "
    )
    assert len(re.findall(r"ensemble: member \d of 6 done \(\d of 6\), ", out)) == 6
    logged = runs(tmp_path)["ensemble 6-members-0"]
    assert [row[0] for row in logged.table("ensemble/table")[1]] == [f"{n} of 6" for n in range(1, 7)]
    assert logged.config["zeros"] == 3

    digits = [str(digit) for digit in range(10)]
    plan = EnsemblePlan.of(digits, 6, 0)
    assert plan.codes.equal(codes(10, 6, 0))
    store = CounterfactualStore(run.store)
    keys = plan.keys(store)
    assert [key.groups for key in keys] == plan.removed
    store.path(keys[0]).rename(tmp_path / "member")
    assert main(command("ensemble", run.root)) == 0  # an interrupted one goes on
    out = capsys.readouterr().out
    assert (
        "ensemble: 5 complete, skipped: member 2 of 6," in out
        and "ensemble: member 1 of 6 done (1 of 1)" in out
    )
    again = load_file(store.path(keys[0]) / "model.safetensors")
    for name, weights in load_file(tmp_path / "member" / "model.safetensors").items():
        assert weights.equal(again[name])

    assert main(scored(run.root)) == 0
    out = capsys.readouterr().out
    assert "attribute: 5 queries, 10 groups, 300 network evaluations" in out  # 6 members x 50
    assert "±: of a score, noise draws and the ensemble's members, but not what other groups add" in out
    assert "No size claimed: nats, relative to the other groups. Scores by an ensemble are relative:" in out
    assert (
        "ensemble: these scores attribute the mean of an ensemble, not the full model: 3 of 6 members that "
        "never saw a group against as many at random. They are relative to the other groups: their order "
        "counts, and no sign\n" in out
    )
    table = ScoreTable.load(run.table("ensemble", 0))
    assert isinstance(table.record.details, Ensemble)
    assert main(["curate", str(run.root), "--scores", str(run.table("ensemble", 0))]) == 2
    told = capsys.readouterr().err.removeprefix("error: ").rstrip("\n")
    expected = message(
        f"{run.table('ensemble', 0)} does not say which groups harm",
        "scores by an ensemble, which are relative to the other groups and whose signs say nothing",
        "scores of counterfactuals of the full model",
        "score the same queries with counterfactuals, such as --operator guidance, and name their table with "
        "--scores",
    )
    assert re.fullmatch(expected, told), told
    untested = ["report", str(run.root), "--scores", str(run.table("ensemble", 0))]
    assert main(untested) == 0
    page = (run.report / "index.html").read_text("utf-8")
    assert "Untested: nobody has measured here whether ensemble ranks groups as retraining does." in page
    capsys.readouterr()
    assert table.record.full_hash == ScoreTable.load_record(run.table("retrack", 0)).full_hash
    assert len(table.groups) == 10 and table.weightings == ("elbo", "uniform", "middle")
    found = stored_errors(table, run.errors)
    assert set(found) == {None, *digits}
    assert main(scored(run.root)) == 0
    assert "ensemble-0.parquet is complete, skipped" in capsys.readouterr().out

    assert (
        main(["evaluate", str(run.root), "--resamples", "20"]) == 0
    )  # the ensemble, as nothing is retrained
    out = " ".join(capsys.readouterr().out.split())
    assert "10 groups, 1 ensemble seed (0);" in out
    assert "second retraining" not in out and "FADE:" not in out and ONE_ENSEMBLE in out and NOTE in out
    assert "shared noise hides" in out  # from squared errors of pairs
    evaluation = Evaluation.load(run.evaluation)
    assert evaluation.record["oracle"] == "ensemble" and list(evaluation.record["methods"]) == ["retrack-0"]

    assert main(["report", str(run.root)]) == 0
    page = (run.report / "index.html").read_text("utf-8")
    assert '<section id="ensemble"' in page and "Ensemble of 6 members, seed 0" in page
    assert "retrack" in page  # an oracle is not what a page shows by itself
    assert main(["report", str(run.root), "--scores", str(run.table("ensemble", 0))]) == 0
    page = (run.report / "index.html").read_text("utf-8")
    assert "the ensemble is attributed, and not the full model" in page
    assert "Ensemble is the yardstick of other methods." in page
    reading = re.search(r'<div data-view="0">(.*?)</div>', page, re.DOTALL)[1]
    assert "Sign: " not in reading and "the query needs the group" not in reading

    packed = pack_run(run, tmp_path / "toy.json", title="A toy", made={"core_seconds": {}})
    unpacked = RunFolder(tmp_path / "unpacked")
    assert Yardstick.find(str(packed.path)).unpack(unpacked.root)
    again_read = stored_errors(ScoreTable.load(unpacked.table("ensemble", 0)), unpacked.errors)
    assert all(again_read[group].errors.equal(found[group].errors) for group in found)


def test_a_member_never_saw_its_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other pixels of a group leave every member that is trained without it as it is, bit by bit."""
    weights: dict[str, dict[str, dict[str, Tensor]]] = {}
    for changed in ("a", ""):
        images = tmp_path / f"images{changed}"
        for group in "abc":
            (images / group).mkdir(parents=True)
            for number in range(6):
                rng = np.random.default_rng([number, ord(group), group == changed])
                Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(images / group / f"{number}.png")
        run = tmp_path / f"run{changed}"
        source = [
            "--data.init_args.source",
            "guda_lightning.data.ImageFolder",
            "--data.init_args.source.path",
        ]
        options = [*source, str(images), "--data.init_args.limit", "null", "--trainer.max_steps", "1"]
        assert main(command("fit", run, *options)) == 0
        assert main(command("ensemble", run, *options)) == 0
        store = CounterfactualStore(run / "store")
        weights[changed] = {
            record.key.name: load_file(store.path(record.key) / "model.safetensors")
            for record in store.records()
        }
    assert main(command("ensemble", tmp_path / "run", *options, "--leave_one_out", "true")) == 0
    capsys.readouterr()
    assert main(command("retrain", tmp_path / "run", *options, "--paired", "false")) == 0  # the same models
    assert capsys.readouterr().out == "retrain: 3 complete, skipped: a (seed 0), b (seed 0), c (seed 0)\n"
    ensembles = RunFolder(tmp_path / "run").ensembles
    assert {path.stem for path in ensembles.iterdir()} == {"6-members-0", "leave-one-out-0"}
    assert weights[""].keys() == weights["a"].keys() and len(weights[""]) == 6
    alike = {
        name: all(tensor.equal(weights["a"][name][key]) for key, tensor in member.items())
        for name, member in weights[""].items()
    }
    assert alike == {name: "a" in name.split("+") for name in weights[""]}


def test_a_spread_trains_members_by_retraining_without_their_groups() -> None:
    resolved = yaml.safe_dump(
        {"run": "runs/x", "members": 6, "seed": 3, "leave_one_out": False, "full": None}
    )
    assert yaml.safe_load(_as_retraining(resolved)) == {
        "run": "runs/x",
        "seeds": 3,
        "full": None,
        "paired": False,
    }
    assert _as_retraining("") == ""
