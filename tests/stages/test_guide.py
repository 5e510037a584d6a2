"""``guda guide``, and all that follows from its classifier, through the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.storage.runs import RunFolder

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
GUIDE = ["guide", *SHARED, "-c", f"{CONF}/guide.yaml"]
ATTRIBUTE = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--operator", "guidance"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def succeed(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_one_classifier_scores_all_groups(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*GUIDE, "--run", finished_run)
    out = capsys.readouterr().out
    assert re.search(
        r"^guide: up to 12 steps of 16 images through a classifier of \d+ parameters$", out, re.M
    )
    assert re.search(r"^guide: classifier of 10 groups done, [\d.]+ s, 192 network evaluations$", out, re.M)
    (record,) = PosteriorStore(finished_run / "store").records()
    assert record.groups == tuple(map(str, range(10)))
    assert record.network_evaluations == 12 * 16
    assert not (finished_run / "checkpoints").exists() or not list((finished_run / "checkpoints").iterdir())

    succeed(*ATTRIBUTE, "--run", finished_run)
    out = capsys.readouterr().out
    # The full model's errors were kept by the scoring of retrack; one more pass serves all groups.
    assert "attribute: 5 queries, 10 groups, 50 network evaluations" in out
    table = ScoreTable.load(finished_run / "scores" / "guidance-0.parquet")
    assert table.methods == ("guidance",)
    assert table.groups == tuple(map(str, range(10)))
    assert table.record.details.hparams_hash == record.hparams_hash
    assert table.select(weighting="elbo").matrix().abs().max() > 0

    succeed(*GUIDE, "--run", finished_run)
    assert "guide: the classifier is complete, skipped" in capsys.readouterr().out
    succeed(*ATTRIBUTE, "--run", finished_run)
    assert "guidance-0.parquet is complete, skipped" in capsys.readouterr().out
    succeed("report", finished_run)
    assert "guidance" in (finished_run / "report" / "index.html").read_text()


def test_scores_of_the_full_model_are_shared_with_other_methods(finished_run: Path) -> None:
    succeed(*GUIDE, "--run", finished_run)
    before = set((finished_run / "scores" / "errors").iterdir())
    succeed(*ATTRIBUTE, "--run", finished_run)
    assert (
        len(set((finished_run / "scores" / "errors").iterdir()) - before) == 10
    )  # groups, not the full model


def test_scoring_without_a_classifier_names_the_command(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ATTRIBUTE, "--run", str(finished_run)]) == 2
    assert capsys.readouterr().err == (
        f"error: there is no classifier in {finished_run / 'store' / 'classifiers'}\n"
        "  found:    none of any kind\n"
        "  expected: one with seed 0\n"
        "  fix:      run guda guide\n"
    )


def test_a_store_of_two_kinds_asks_which(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*GUIDE, "--run", finished_run)
    capsys.readouterr()
    arguments = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--run", str(finished_run)]
    assert main(arguments) == 2
    assert "found:    guidance, retrack" in capsys.readouterr().err


def test_the_store_alone_says_that_guidance_is_meant(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (finished_run / "store").glob("retrack-*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    succeed(*GUIDE, "--run", finished_run)
    arguments = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--run", str(finished_run)]
    succeed(*arguments)
    assert ScoreTable.exists(finished_run / "scores" / "guidance-0.parquet")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--classifier.steps", "0"), "classifier.steps is out of range"),
        (("--classifier.held_out", "1"), "the share of held-out samples is out of range"),
        (("--classifier.chanels", "8"), "chanels"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    finished_run: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str], expected: str
) -> None:
    before = {path for path in finished_run.rglob("*")}
    assert main([*GUIDE, "--run", str(finished_run), *option]) == 2
    assert expected in capsys.readouterr().err
    assert {path for path in finished_run.rglob("*")} == before


def test_an_interrupted_classifier_goes_on_and_ends_alike(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.posteriors.classifier.TEST_EVERY", 3)  # before and after
    succeed(*GUIDE, "--run", finished_run)
    store = PosteriorStore(finished_run / "store")
    (record,) = store.records()
    whole = store.load(record.key, expect=None)[0]
    for file in store.path(record.key).iterdir():
        file.unlink()
    store.path(record.key).rmdir()

    script = tmp_path / "interrupts.py"
    script.write_text(
        "from lightning.pytorch import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *args):\n"
        "        if trainer.global_step == 7:\n"
        "            raise KeyboardInterrupt\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        stop = json.dumps([{"class_path": "interrupts.Stop"}])
        assert main([*GUIDE, "--run", str(finished_run), "--trainer.callbacks", stop]) == 130
    finally:
        sys.path.remove(str(tmp_path))
    assert not store.exists(record.key)
    succeed(*GUIDE, "--run", finished_run)
    again, made = store.load(record.key, expect=None)
    assert made.network_evaluations == record.network_evaluations
    for name, weights in whole.items():
        assert torch.equal(weights, again[name]), name


def test_the_guided_objective_makes_models_of_its_own(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlearn = ["unlearn", *SHARED, "-c", "unlearn/guided.yaml", "--run", str(finished_run)]
    unlearn += ["--steps", "2", "--groups", "3"]
    assert main(unlearn) == 2
    assert f"there is no classifier in {finished_run / 'store' / 'classifiers'}" in capsys.readouterr().err
    succeed(*GUIDE, "--run", finished_run)
    succeed(*unlearn)
    assert "guided-3-" in " ".join(path.name for path in (finished_run / "store").iterdir())


def test_groups_are_removed_together(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*GUIDE, "--run", finished_run)
    succeed(*ATTRIBUTE, "--run", finished_run, "--groups", "7+3,3,7")
    table = ScoreTable.load(finished_run / "scores" / "guidance-0.parquet")
    assert table.groups == ("3+7", "3", "7")
    sizes = table.record.group_sizes
    assert sizes["3+7"] == sizes["3"] + sizes["7"]
    together, three, seven = table.select(weighting="elbo").matrix().T
    assert not torch.allclose(together, three + seven)

    unlearn = ["unlearn", *SHARED, "-c", f"{CONF}/zero_target.yaml", "--run", str(finished_run)]
    succeed(*unlearn, "--groups", "3+7,3")
    of_zero_target = ["attribute", *SHARED, "-c", f"{CONF}/attribute_zero_target.yaml", "--run", finished_run]
    succeed(*of_zero_target, "--groups", "3,7+3")
    assert ScoreTable.load(finished_run / "scores" / "zero_target-0.parquet").groups == ("3", "3+7")
    capsys.readouterr()
    assert main([str(argument) for argument in [*of_zero_target, "--groups", "1+2"]]) == 2
    assert "run guda unlearn with --groups 1+2" in capsys.readouterr().err
    assert main([str(argument) for argument in [*ATTRIBUTE, "--run", finished_run, "--groups", "3+77"]]) == 2
    assert "unknown group '77'" in capsys.readouterr().err
    every = "+".join(map(str, range(10)))
    assert main([str(argument) for argument in [*ATTRIBUTE, "--run", finished_run, "--groups", every]]) == 2
    assert "cover all training samples" in capsys.readouterr().err


def test_shapley_values_come_from_the_shipped_configuration(finished_run: Path) -> None:
    succeed(*GUIDE, "--run", finished_run)
    shapley = ["attribute", *SHARED, "-c", "attribute/shapley.yaml", "--run", str(finished_run)]
    shapley += ["--attributor.init_args.count", "20", "--attributor.init_args.scoring.strata", "3"]
    succeed(*shapley)
    table = ScoreTable.load(finished_run / "scores" / "shapley-0.parquet")
    assert table.groups == tuple(map(str, range(1, 10)))  # 0 is the reference
    succeed(*ATTRIBUTE, "--groups", "+".join(map(str, range(1, 10))), "--scoring.strata", "3",
            "--scoring.draws", "1", "--run", finished_run)  # fmt: skip
    whole = ScoreTable.load(finished_run / "scores" / "guidance-0.parquet")
    torch.testing.assert_close(
        table.select(weighting="elbo").matrix().sum(dim=1),
        whole.select(weighting="elbo").matrix()[:, 0],
        atol=1e-3,
        rtol=1e-3,
    )
    succeed("report", finished_run, "--scores", finished_run / "scores" / "shapley-0.parquet")


def test_a_race_says_how_it_ended(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*GUIDE, "--run", finished_run)
    race = ["attribute", *SHARED, "-c", "attribute/race.yaml", "--run", str(finished_run)]
    succeed(*race)
    assert re.search(r"race: the top 1 of \d of 5 queries are known at δ = 0.05", capsys.readouterr().out)
    table = ScoreTable.load(finished_run / "scores" / "guidance_race-0.parquet")
    assert (table.methods, table.weightings) == (("guidance_race",), ("uniform",))
    succeed(*race)
    assert "guidance_race-0.parquet is complete, skipped" in capsys.readouterr().out


def test_the_same_noise_is_sampled_without_a_group(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["sample", *SHARED, "-c", f"{CONF}/sample.yaml", "--run", str(finished_run)]
    sample += ["--operator", "guidance"]
    assert main([*sample, "--without", "3"]) == 2
    assert capsys.readouterr().err == (
        f"error: there is no classifier in {finished_run / 'store' / 'classifiers'}\n"
        "  found:    none of any kind\n"
        "  expected: one with seed 0\n"
        "  fix:      run guda guide\n"
    )
    succeed(*GUIDE, "--run", finished_run)
    succeed(*sample, "--without", "7+3,1")
    folder = RunFolder(finished_run)
    for groups in ("3+7", "1"):
        found = folder.without_groups("guidance", groups)
        names = {path.name for path in found.glob("*.png")}
        assert names == {path.name for path in (finished_run / "queries").glob("*.png")}
        config = json.loads((found / "record.json").read_text())["config"]
        assert (config["operator"], config["without"]) == ("guidance", groups)
    capsys.readouterr()
    succeed(*sample, "--without", "1,3+7")
    assert capsys.readouterr().out == "sample: 2 complete, skipped: 1, 3+7\n"
    assert main([*sample, "--without", "33"]) == 2
    assert "unknown group '33'" in capsys.readouterr().err
