"""``guda guide --posterior recalibrated``: a new group in seconds, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.posteriors import PosteriorStore
from wandb_files import runs

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
GUIDE = ["guide", *SHARED, "-c", f"{CONF}/guide.yaml"]
DIGITS = load_digits().target.tolist()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def base(classified_run: Path) -> Path:
    """A finished run with a classifier of the ten digits."""
    return classified_run


def groups(path: Path, names: list[str]) -> list[str]:
    path.write_text("id,group\n" + "".join(f"{row},{name}\n" for row, name in enumerate(names)))
    return ["--data.init_args.groups", str(path), "--run", str(path.parent / path.stem)]


def halves_of_three(path: Path) -> list[str]:
    return groups(path, [f"3{row % 2}" if digit == 3 else str(digit) for row, digit in enumerate(DIGITS)])


def recalibrate(base: Path, options: list[str], *more: str) -> int:
    return main(["guide", *SHARED, *options, "--posterior", "recalibrated", "--base", str(base), *more])


def test_groups_that_are_merged_take_no_image_and_score_at_once(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    even = groups(tmp_path / "even.csv", ["even" if digit % 2 == 0 else str(digit) for digit in DIGITS])
    capsys.readouterr()
    assert recalibrate(base, even) == 0
    out = capsys.readouterr().out
    assert (
        "guide: the classifier of 10 groups, recalibrated: 10 sets of groups stay, 0 are new, which takes 0 "
        "of the 64 training images; seconds\n"
    ) in out
    assert re.search(r"^guide: recalibrated of 6 groups done, .*, 0 network evaluations$", out, re.M)
    assert recalibrate(base, even) == 0
    assert capsys.readouterr().out == "guide: recalibrated is complete, skipped\n"
    attribute = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", *even]
    attribute += ["--full", str(base / "full"), "--queries", str(base / "queries")]
    assert main([*attribute, "--operator", "recalibrated", "--name", "even"]) == 0
    scored = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--run", str(base)]
    assert main([*scored, "--operator", "classifier", "--groups", "0+2+4+6+8,1"]) == 0
    (path,) = (tmp_path / "even" / "scores").glob("recalibrated-0-*.parquet")
    merged = ScoreTable.load(path).select(weighting="elbo")
    coalition = ScoreTable.load(base / "scores" / "classifier-0.parquet").select(weighting="elbo")
    columns = [merged.groups.index(name) for name in ("even", "1")]
    assert main(["report", str(tmp_path / "even"), "--scores", str(path)]) == 0
    page = (tmp_path / "even" / "report" / "index.html").read_text()
    assert '<section id="recalibrated"' in page and "of the entropy of its groups on held-out samples" in page
    torch.testing.assert_close(merged.matrix()[:, columns], coalition.matrix(), rtol=1e-4, atol=1e-5)


def test_a_group_of_its_own_is_learnt_from_its_images(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    project: dict[str, Any] = {"class_path": "lightning.pytorch.loggers.WandbLogger"}
    project["init_args"] = {"project": "tiny", "save_dir": str(tmp_path), "offline": True}
    logged = ["--trainer.logger", json.dumps(project)]
    assert recalibrate(base, halves_of_three(tmp_path / "new.csv"), *logged) == 0
    out = capsys.readouterr().out
    found = re.search(r"(\d+) sets of groups stay, (\d+) are new, which takes (\d+) of the 64", out)
    assert found is not None and found.groups()[:2] == ("9", "2")
    (record,) = PosteriorStore(tmp_path / "new" / "store").records()
    assert "30" in record.groups and "31" in record.groups
    assert record.network_evaluations > 0 and len(record.levels) == 10
    assert record.hparams["base"] == PosteriorStore(base / "store").records()[0].weights_hash
    assert record.tested_on_trained > 0  # six samples are held out, and there are eleven sets of groups
    assert (
        f"guide: Of {record.tested_on_trained} sets of groups there are no held-out samples: these are "
        "tested on what the classifier learnt from, which flatters it.\n"
    ) in out
    (run,) = runs(tmp_path).values()
    assert run.about == ("new", "guide", f"guide {record.key.folder_name}")
    columns, levels, _ = run.table("recalibrated/table")
    assert columns[0] == "timesteps" and len(levels) == 10
    assert run.config["hparams"]["base"] == record.hparams["base"]
    # What was made is a base in turn.
    back = groups(tmp_path / "back.csv", [str(digit) for digit in DIGITS])
    assert recalibrate(tmp_path / "new", back, "--full", str(base / "full")) == 0
    out = capsys.readouterr().out
    assert "11 sets of groups stay, 0 are new" in out
    # What is lost adds up over the steps, and is told and bounded against what was trained.
    (again,) = PosteriorStore(tmp_path / "back" / "store").records()
    trained = record.hparams["base_explained"]
    assert again.hparams["base"] == record.weights_hash and again.hparams["base_explained"] == trained
    assert f"and {trained:.0%} of those that it was trained on" in out


def test_the_page_shows_the_recalibration_that_made_its_scores(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--operator", "recalibrated"]
    scored += ["--full", str(base / "full"), "--queries", str(base / "queries")]
    run = tmp_path / "run"
    pages: list[tuple[str, str]] = []
    splits = {"digits": DIGITS, "rows": range(len(DIGITS))}  # the same names of groups, and the same base
    for split, numbers in splits.items():
        names = ["odd" if number % 2 else "even" for number in numbers]
        options = [*groups(tmp_path / f"{split}.csv", names)[:2], "--run", str(run)]
        assert recalibrate(base, options, "--full", str(base / "full")) == 0
        records = PosteriorStore(run / "store").records()
        (of_split,) = [one for one in records if one.weights_hash not in dict(pages)]
        said = re.search(r"^guide: (The classifier explains .*)$", capsys.readouterr().out, re.M)
        assert said is not None
        pages.append((of_split.weights_hash, said[1]))
        hparams = ["--hparams", of_split.hparams_hash[:8], "--name", split]
        assert main([*scored, *options, *hparams]) == 0
    assert len(dict(pages)) == len({said for _, said in pages}) == 2
    for identity, said in pages:
        (table,) = [
            path
            for path in (run / "scores").glob("*.parquet")
            if identity in ScoreTable.load_record(path).details.weights
        ]
        assert main(["report", str(run), "--scores", str(table)]) == 0
        assert said in (run / "report" / "index.html").read_text()


def test_a_poor_classifier_is_refused_before_it_is_stored(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.makers.recalibrator.WORST_LOSS", -2.0)
    assert recalibrate(base, halves_of_three(tmp_path / "new.csv")) == 2
    number = r"-?\d\.\d\d"
    assert re.fullmatch(
        "error: the features of the trained classifier do not tell the new groups apart\n"
        f"  found:    {number} of the entropy of the groups explained on held-out samples\n"
        f"  expected: at least {number}, as the trained classifier explains {number} of its own\n"
        "  fix:      run guda guide, which trains a classifier of these groups\n",
        capsys.readouterr().err,
    )
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_what_cannot_be_recalibrated_is_refused(
    finished_run: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = groups(tmp_path / "same.csv", [str(digit) for digit in DIGITS])
    store = PosteriorStore(finished_run / "store")

    def error(code: int) -> str:
        assert code == 2
        return capsys.readouterr().err

    assert error(main(["guide", *SHARED, *same, "--posterior", "recalibrated"])) == (
        "error: a classifier is recalibrated\n"
        "  found:    no --base\n"
        "  expected: the run folder whose classifier gets other groups\n"
        "  fix:      pass --base RUN to guda guide\n"
    )
    assert error(main(["guide", *SHARED, *same, "--base", str(finished_run)])) == (
        "error: only a recalibrated classifier has a base\n"
        f"  found:    --base {finished_run} with --posterior guidance\n"
        "  expected: --posterior recalibrated\n"
        "  fix:      leave out --base, or correct --posterior\n"
    )
    assert error(recalibrate(finished_run, same)) == (
        f"error: {store.root} holds no classifier\n"
        "  found:    no posterior\n"
        "  expected: the classifier of a run, whose groups are to change\n"
        "  fix:      run guda guide on that run first\n"
    )
    guide = [*GUIDE, "--posterior", "classifier", "--run", str(finished_run)]
    assert main([*guide, "--classifier.held_out", "0"]) == 0
    named = f"the classifier of {', '.join(map(str, range(10)))} (seed 0)"
    assert error(recalibrate(finished_run, same)) == (
        f"error: {named} was never tested\n"
        "  found:    no held-out samples\n"
        "  expected: a classifier that others can be compared with\n"
        "  fix:      run guda guide on that run with --classifier.held_out 0.1\n"
    )
    store = PosteriorStore(base / "store")
    (record,) = store.records()
    weights, _ = store.load(record.key, expect=None)
    store.save({name: each for name, each in weights.items() if "moments." not in name}, record)  # as before
    assert error(recalibrate(base, same)) == (
        f"error: {named} keeps no moments of its features\n"
        f"  found:    a classifier of guda-lightning {record.versions['guda_lightning']}\n"
        "  expected: one that says how the features of each group are distributed\n"
        f"  fix:      remove {store.path(record.key)}, and run guda guide on that run again\n"
    )
    # For all else it is as good as ever.
    attribute = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--run", str(base)]
    assert main([*attribute, "--operator", "classifier", "--groups", "3"]) == 0
