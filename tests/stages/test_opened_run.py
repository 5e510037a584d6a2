"""``open_run``: in Python a run folder gives what the command line gives, whatever an image is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guda_lightning import GroupDataModule, ScoreTable, Scoring, open_run
from guda_lightning.app.worth import worth_of
from guda_lightning.cli.main import main
from guda_lightning.data import Digits
from guda_lightning.errors import GudaError
from guda_lightning.scores.kinds import NAME, Likelihood
from guda_lightning.storage.runs import RunFolder
from toys import edit_json, message, save_guidance

CONF = Path(__file__).parents[1] / "conf"
SCORING = Scoring(strata=5, draws=2)  # of tests/conf/attribute.yaml


def written(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def assert_same_scores(found: ScoreTable, expected: ScoreTable) -> None:
    for weighting in expected.weightings:
        one, other = (table.select(weighting=weighting).matrix() for table in (found, expected))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_scores_are_those_of_the_command_and_nothing_is_written(finished_run: Path) -> None:
    before = written(finished_run)
    run = open_run(str(finished_run))
    assert run.folder == RunFolder(finished_run)
    assert run.tables == ("retrack-0",)
    generator = torch.get_rng_state()
    assert run.full.hash == run.record.full_hash
    assert torch.equal(torch.get_rng_state(), generator)
    assert run.full is run.full and run.data is run.data
    told = run.table()
    assert_same_scores(run.attribute(finished_run / "queries", scoring=SCORING), told)
    few = run.attribute(finished_run / "queries", by="retrack", groups="7,3", scoring=SCORING)
    assert few.groups == ("7", "3")
    assert run.attribute(finished_run / "queries", scoring=SCORING).record == told.record
    assert written(finished_run) == before
    assert run.page() == finished_run / "report" / "index.html"
    assert "retrack" in run.page().read_text("utf-8")


def test_one_image_has_one_score_in_any_form_and_under_any_name(finished_run: Path, tmp_path: Path) -> None:
    run = open_run(finished_run)
    save_guidance(finished_run / "store", run.full, run.data)
    here = finished_run / "queries" / "sample-1.png"
    there = tmp_path / "elsewhere" / "renamed.png"
    there.parent.mkdir()
    shutil.copy(here, there)
    command = ["attribute", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/attribute.yaml"]
    command += ["--run", str(finished_run), "--operator", "guidance", "--queries", str(there)]
    assert main(command) == 0
    expected = ScoreTable.load(finished_run / "scores" / "guidance-0-renamed.parquet")
    assert expected.queries == ("renamed",)
    pixels = np.asarray(Image.open(here))[None]
    unit = torch.from_numpy(pixels.copy()).float() / 127.5 - 1
    forms: dict[str, Any] = {
        "sample-1": here,
        "renamed": str(there.parent),
        "image": Image.open(here),
        "image-0": pixels[None],
        "image ": pixels,
        "image  ": unit,
        "image-0 ": [unit.double().numpy()],
    }
    for name, given in forms.items():
        found = run.attribute(given, scoring=SCORING)
        assert found.queries == (name.strip(),) and found.methods == ("guidance",)
        assert_same_scores(found, expected)
    larger = Image.open(here).resize((16, 16), Image.Resampling.NEAREST)
    assert run.attribute([larger, here], scoring=SCORING, resize=True).queries == ("image-0", "sample-1")


def test_the_data_of_a_user_are_taken_if_they_are_those_of_the_full_model(finished_run: Path) -> None:
    mine = GroupDataModule(Digits(), limit=64)
    assert open_run(finished_run, mine).data is mine
    other = open_run(finished_run, GroupDataModule(Digits(), limit=63))
    with pytest.raises(GudaError, match="was trained on other data"):
        other.full  # noqa: B018


def test_tables_of_noise_by_name_open_and_are_made_again(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_run / "scores" / "retrack-0.parquet"
    new = ScoreTable.load(path)
    assert new.record.scoring is not None
    by_name = replace(new.record, scoring=replace(new.record.scoring, noise=NAME))
    assert "noise" not in by_name.to_json()  # as earlier versions wrote it
    old = replace(new, record=by_name)
    details = by_name.details
    assert isinstance(details, Likelihood)
    others = {group: f"without {group}" for group in details.counterfactuals}
    oracle = replace(by_name, details=replace(details, counterfactuals=others))
    for seed in (0, 1):
        columns = old.table.to_pydict() | {"method": ["retrain"] * len(old), "seed": [seed] * len(old)}
        rows = type(old.table).from_pydict(columns, schema=old.table.schema)
        retrained = replace(old, table=rows, record=oracle)
        retrained.save(finished_run / "scores" / f"retrain-{seed}.parquet")
    assert main(["evaluate", str(finished_run), "--resamples", "20"]) == 0  # of old ones, today's
    told = " ".join(capsys.readouterr().out.split())
    assert "retrack-0 1.00" in told
    assert "left out: the tables do not share noise (retrack-0 and retrain-0 differ in draws" in told
    run = RunFolder(finished_run)
    assert "names of queries" not in worth_of(run, "retrack", details.weights).headline
    old.save(path)
    assert "names of queries" in worth_of(run, "retrack", details.weights).headline
    assert open_run(finished_run).table().record == by_name != new.record
    assert main(["report", str(finished_run)]) == 0
    curate = ["curate", str(finished_run), "--scores", str(path), "--verify"]
    capsys.readouterr()
    assert main(curate) == 2
    assert "noise that follows from the names of the queries" in capsys.readouterr().err
    attribute = ["attribute", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/attribute.yaml"]
    assert main([*attribute, "--run", str(finished_run)]) == 0
    assert f"attribute: {path} is made again" in capsys.readouterr().out
    assert_same_scores(open_run(finished_run).table("retrack-0"), new)
    assert main([*attribute, "--run", str(finished_run)]) == 0
    assert "is complete, skipped" in capsys.readouterr().out


# --- what is refused


def without_models(run: Path) -> None:
    shutil.rmtree(run / "store")


def with_no_such_class(run: Path) -> None:
    def of_nobody(record: dict[str, Any]) -> dict[str, Any]:
        record["config"]["model"]["class_path"] = "nobody.Module"
        return record

    edit_json(run / "full" / "record.json", of_nobody)


def opened(run: Path) -> object:
    return open_run(run)


def attributed(run: Path) -> object:
    return open_run(run).attribute(run / "queries", scoring=SCORING)


@pytest.mark.parametrize(
    ("spoil", "use", "problem", "fix"),
    [
        (
            shutil.rmtree,
            opened,
            "RUN is no run folder\n  found:    nothing at RUN",
            "`guda runs` lists those below this folder",
        ),
        (
            lambda run: [(run / "full" / name).unlink() for name in ("record.json", "seal.json")],
            opened,
            "RUN does not say what its full model was trained on\n  found:    no configuration",
            "run guda fit first",
        ),
        (
            without_models,
            attributed,
            "RUN has nothing to score with yet\n  found:    no posterior and no counterfactuals",
            "run guda guide with the configuration of this run",
        ),
        (
            with_no_such_class,
            attributed,
            "the model of RUN/full cannot be built here",
            "start Python where",
        ),
        (
            lambda run: None,
            lambda run: open_run(run).attribute(run / "queries", by="guided", scoring=SCORING),
            "no counterfactual in RUN/store was made by guided",
            "correct the operator",
        ),
    ],
    ids=["no folder", "no record", "no models", "no class", "another operator"],
)
def test_what_cannot_be_opened_says_why(
    finished_run: Path,
    spoil: Callable[[Path], object],
    use: Callable[[Path], object],
    problem: str,
    fix: str,
) -> None:
    spoil(finished_run)
    with pytest.raises(GudaError) as error:
        use(finished_run)
    assert str(error.value).startswith(problem.replace("RUN", str(finished_run)))
    assert error.value.fix.startswith(fix)
    assert "-c" not in error.value.fix.split()  # Python has no configuration to pass


def test_a_table_of_another_name_is_refused(finished_run: Path) -> None:
    text = message(
        f"{finished_run} has no score table 'guided-0'",
        "retrack-0",
        "the name of a table",
        "choose one of those found, or run guda attribute",
    )
    with pytest.raises(GudaError, match=text):
        open_run(finished_run).table("guided-0")
