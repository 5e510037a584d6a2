"""``guda groups`` through the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from guda_lightning.cli.main import main
from guda_lightning.data.grouping import Grouping
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.posteriors.feature_moments import hashed
from guda_lightning.stages.audited import Missing, calibrated, static
from guda_lightning.stages.halving import Split, scores_of
from guda_lightning.storage.frames import load_frame, save_frame
from toys import shades
from wandb_files import runs

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
SCORED = ["-c", f"{CONF}/attribute.yaml"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def audit(run: Path, *options: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    assert main(["groups", *SHARED, "--run", str(run), *options]) == 0
    return load_frame(run / "groups.parquet", "guda groups")


@pytest.fixture
def judged_run(_finished_run: Path, grown: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a finished run with a classifier that is tested on more than half of the samples."""
    options = ["-c", f"{CONF}/guide.yaml", "--posterior", "classifier", "--classifier.held_out", "0.6"]
    made = grown("judged", _finished_run, ["guide", *SHARED, *options])
    return Path(shutil.copytree(made, tmp_path / "judged"))


def test_groups_are_audited_by_what_is_there(
    finished_run: Path, judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, record = audit(tmp_path / "bare")
    assert list(frame.group) == [str(digit) for digit in range(10)]
    assert (int(frame.samples.sum()), record["samples"], record["ungrouped"]) == (64, 64, 0)
    assert frame.share.sum() == pytest.approx(1)
    assert frame.calibration.isna().all() and frame.agree.isna().all() and not frame.hides_two.any()
    full = tmp_path / "bare" / "full"
    missing = (
        f"Not known: calibration and hidden modes, as there is no full model (no {full}). "
        "To mend: run guda fit, guda sample and guda guide first."
    )
    assert record["missing"] == [missing]
    assert f"groups: {missing}\n" in capsys.readouterr().out

    store = finished_run / "store" / "posteriors"
    _, record = audit(finished_run)
    assert record["missing"] == [
        f"Not known: calibration and hidden modes, as {store} holds no classifier (no posterior). "
        "To mend: run guda guide on that run first."
    ]
    _, record = audit(judged_run)
    assert record["missing"] == [
        "Not known: hidden modes, as there are too few queries to compare halves on (5 of 40). "
        "To mend: pass --queries FOLDER with more of them."
    ]
    shutil.move(judged_run / "queries", judged_run / "moved")
    frame, record = audit(judged_run)
    assert frame.calibration.notna().any() and frame.agree.isna().all()
    judged = int(frame.calibration.notna().sum())
    assert f"were it calibrated, {judged / 20:.1f} of {judged} would be by chance." in capsys.readouterr().out
    assert record["missing"] == [
        f"Not known: hidden modes, as there are no queries (nothing at {judged_run / 'queries'}). "
        "To mend: run guda sample, or pass --queries FILE|FOLDER."
    ]


def test_halves_are_scored_once_and_shown(
    judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.stages.halving.LEAST", 1)
    pictures = queries(tmp_path / "pictures")
    logger: dict[str, Any] = {"class_path": "lightning.pytorch.loggers.WandbLogger"}
    logger["init_args"] = {"project": "tiny", "save_dir": str(tmp_path), "offline": True}
    options = [*SCORED, "--queries", str(pictures), "--trainer.logger", json.dumps(logger)]
    capsys.readouterr()
    with monkeypatch.context() as patch:  # interrupted when the first half of the work is done
        patch.setattr("guda_lightning.stages.halving.random_halves", _interrupt)
        assert main(["groups", *SHARED, "--run", str(judged_run), *options]) == 130
    assert [path.name for path in (judged_run / "groups.parts").iterdir()] == ["halves-clusters.parquet"]
    assert "groups: 10 groups in halves, twice, 1200 network evaluations: about" in capsys.readouterr().out
    splits: list[Split] = []

    def counted(base: Any, context: Any, split: Split, *rest: Any) -> torch.Tensor:
        splits.append(split)
        return scores_of(base, context, split, *rest)

    monkeypatch.setattr("guda_lightning.stages.audited.scores_of", counted)
    frame, record = audit(judged_run, *options)
    assert len(splits) == 1 and not (judged_run / "groups.parts").exists()
    (split,) = splits
    assert split.two == tuple(frame["samples"] >= 2)
    assert [sum(sizes) for sizes in split.sizes] == frame["samples"].tolist()
    assert frame.agree.notna().tolist() == frame.agree_random.notna().tolist() == list(split.two)
    assert frame.agree.dropna().between(-1, 1).all() and (frame.low <= frame.high)[list(split.two)].all()
    assert record["pairs"] == record["contents"] == 20 and 0 <= record["pair_share"] <= 1
    assert frame.group[frame.pair_share.notna()].tolist() == ["3", "7"]
    out = capsys.readouterr().out
    pairs = "Of 20 pairs of queries with the same content in two groups, [0-9]+% of the difference of scores"
    assert re.search(
        rf"^groups: {pairs}, ± [0-9]+% over 20 contents, sits on the two; 20% by chance", out, re.M
    )
    assert re.search(r"^group +samples +share +overlap ", out, re.M)
    parts = judged_run / "groups.parts"
    parts.mkdir()  # as a kill just before the end leaves it
    audit(judged_run, *options)
    assert not parts.exists()
    assert capsys.readouterr().out == f"groups: {judged_run / 'groups.parquet'} is complete, skipped\n"

    run = runs(tmp_path)["groups"]
    assert run.about == (judged_run.name, "groups", "groups")
    columns, rows, _ = run.table("audit/table")
    assert columns[0] == "group" and len(rows) == 10
    assert main(["report", str(judged_run)]) == 0
    page = (judged_run / "report" / "index.html").read_text()
    assert '<section id="audit"' in page and "20 pairs of queries" in page
    save_frame(judged_run / "groups.parquet", frame, {**record, "full_hash": "0" * 64})
    assert main(["report", str(judged_run)]) == 0
    assert '<section id="audit"' not in (judged_run / "report" / "index.html").read_text()


def test_overlaps_copies_and_samples_in_no_group(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        pixels = torch.randint(0, 255, (8, 8), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(images / f"{number}.png")
    shutil.copy(images / "0.png", images / "copy.png")
    shutil.copy(images / "1.png", images / "twin.png")
    rows = {"a": range(6), "b": (5, 6, 7, 8)}
    text = "".join(f"{number}.png,{name}\n" for name, of in rows.items() for number in of)
    (tmp_path / "groups.csv").write_text(f"id,group\n{text}copy.png,b\ntwin.png,a\n")
    source = ["--data.init_args.source.class_path", "guda_lightning.data.ImageFolder"]
    source += ["--data.init_args.source.init_args.path", str(images)]
    source += ["--data.init_args.limit", "null", "--data.init_args.groups", str(tmp_path / "groups.csv")]
    frame, record = audit(tmp_path / "run", *source)
    assert dict(zip(frame.group, frame.samples, strict=True)) == {"a": 7, "b": 5}
    assert frame.overlap.tolist() == [pytest.approx(1 / 11)] * 2 and list(frame.overlaps) == ["b", "a"]
    assert (record["across"], record["inside"], record["ungrouped"], record["overlapping"]) == (1, 1, 3, 1)
    assert record["duplicates"] == [["0.png", "copy.png"]]
    assert frame.across.tolist() == [1, 1] and frame.inside.tolist() == [1, 0]


def test_a_classifier_of_other_groups_splits_halves_and_judges_nothing_else(
    judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["3" if digit < 5 else "7" if digit < 8 else "other" for digit in load_digits().target]
    path = tmp_path / "groups.csv"
    path.write_text("id,group\n" + "".join(f"{row},{name}\n" for row, name in enumerate(names)))
    options = ["--data.init_args.groups", str(path), "--full", str(judged_run / "full"), *SCORED]
    options += ["--queries", str(queries(tmp_path / "pictures"))]
    frame, record = audit(judged_run, *options)
    missing = (
        "Not known: calibration and pairs of the same content, as the classifier tells other groups apart "
        "(10 groups). To mend: run guda guide with today's groups."
    )
    assert record["missing"] == [missing] and record["pairs"] == 0 and record["pair_share"] is None
    assert frame.calibration.isna().all() and frame.agree.notna().any()
    # One of today's groups comes first, whatever the others explain.
    recalibrate = ["guide", *SHARED, *options[:4], "--run", str(judged_run), "--posterior", "recalibrated"]
    assert main([*recalibrate, "--base", str(judged_run)]) == 0
    frame, record = audit(judged_run, *options)
    (made,) = [one for one in PosteriorStore(judged_run / "store").records() if one.kind == "recalibrated"]
    assert record["posterior"] == made.weights_hash
    assert record["missing"] == [] and record["pairs"] == 20 and frame.calibration.notna().any()
    # It is no base of another one.
    capsys.readouterr()
    assert main([*recalibrate, "--base", str(judged_run)]) == 0
    assert capsys.readouterr().out == "guide: recalibrated is complete, skipped\n"


def test_images_that_were_exchanged_calibrate_nothing() -> None:
    data, missing = shades(4), Missing()
    moments = SimpleNamespace(sample=hashed(data), held_out=torch.arange(12) < 5)
    base: Any = SimpleNamespace(tells=lambda _: True, posterior=None, moments=moments)
    data.inputs[:] = 255 - data.inputs
    frame, _ = static(data)
    assert calibrated(frame, base, data, 0, missing) == {"held_out": 0}
    assert missing.lines == [
        "Not known: calibration, as the classifier was made from other images (none of its 5 held-out "
        "samples). To mend: run guda guide with today's images."
    ]
    assert frame.calibration.isna().all()


def test_both_halves_of_a_group_have_enough_samples() -> None:
    features = torch.tensor([[0.0]] * 5 + [[9.0]] * 4 + [[0.0]] * 9 + [[9.0]] * 3)
    grouping = Grouping({"even": range(9), "outliers": range(9, 21)}, 21)
    for at_random in (False, True):
        split = Split.of(grouping, features, 0, at_random=at_random)
        assert (split.two, split.sizes) == ((True, False), ((5, 4), (12,)))


def test_several_processes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert main(["groups", *SHARED, "--run", str(tmp_path), *options]) == 2
    assert capsys.readouterr().err == (
        "error: guda groups works in one process\n"
        "  found:    2 processes\n"
        "  expected: one: nothing is trained\n"
        "  fix:      pass --trainer.devices 1 --trainer.num_nodes 1\n"
    )


def queries(folder: Path) -> Path:
    """Twenty pictures of content, each as a 3 and as a 7."""
    generator = torch.Generator().manual_seed(0)
    for group in ("3", "7"):
        (folder / group).mkdir(parents=True)
        for number in range(20):
            pixels = torch.randint(0, 255, (8, 8), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / group / f"content-{number}.png")
    return folder


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
