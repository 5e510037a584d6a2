"""`guda curate` on a run folder with a planted group, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule, Listed
from guda_lightning.data.group_names import GroupNames
from guda_lightning.errors import GroupError
from guda_lightning.evaluation.curation import AFTER, RANDOM, Curation
from guda_lightning.makers.retrainer import Retrainer
from guda_lightning.report.curation_section import FOUND, GROUPS, VERIFIED, curation_lines, curation_section
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.curate import _write_groups
from guda_lightning.storage.frames import load_frame
from guda_lightning.storage.runs import RunFolder
from toys import Shades, message
from wandb_files import runs

CONF = Path(__file__).parents[1] / "conf"
QUERIES = [f"sample-{row}" for row in range(5)]
Guda = Callable[..., str]


@pytest.fixture
def guda(capsys: pytest.CaptureFixture[str]) -> Guda:
    torch.set_num_threads(1)

    def run(*arguments: object, code: int = 0) -> str:
        assert main([str(argument) for argument in arguments]) == code
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    return run


@pytest.fixture
def planted(finished_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run folder whose scores say that the groups 3 and 7 harm, and groups of its queries."""
    (path,) = (finished_run / "scores").glob("retrack-*.parquet")
    table = ScoreTable.load(path)
    harms = pc.is_in(table.table["group"], pa.array(["3", "7"]))
    scores = pc.if_else(
        harms, pc.subtract(pc.multiply(table.table["score"], 0.01), 5.0), table.table["score"]
    )
    rows = table.table.set_column(table.table.schema.get_field_index("score"), "score", scores)
    replace(table, table=rows).save(path)
    targets = tmp_path / "targets.csv"
    lines = [f"{name},{'old' if row < 3 else 'young'}\n" for row, name in enumerate(QUERIES)]
    targets.write_text("id,group\n" + "".join(lines))
    return finished_run, targets


def test_harmful_groups_are_found_and_left_out_of_the_data(planted: tuple[Path, Path], guda: Guda) -> None:
    root, targets = planted
    run = RunFolder(root)
    told = guda("curate", root, "--target", targets)
    assert told.startswith("2 of 10 groups should leave the data: ")
    found, about = load_frame(run.curation / FOUND, "guda curate RUN")
    assert set(found["group"][found["harmful"]]) == {"3", "7"} and found["effect"].is_monotonic_increasing
    table = ScoreTable.load(root / "scores" / "retrack-0.parquet").select(weighting="uniform")
    scores = dict(zip(table.groups, table.matrix().T, strict=True))
    losses = torch.tensor([row["loss"] for row in about["targets"]]).double()
    for row in found.to_dict("records"):
        means = torch.stack([scores[row["group"]][:3].mean(), scores[row["group"]][3:].mean()])
        assert row["effect"] == pytest.approx(float((losses / losses.sum() * means).sum()))
        assert row["worst"] == pytest.approx(float(means[losses.argmax()]))
    whole = GroupDataModule(Digits(), limit=64)
    kept = GroupDataModule(Listed(Digits(), str(run.curation / GROUPS)), groups=str(run.curation / GROUPS))
    stay = [
        name
        for name, row in zip(whole.ids, whole.grouping.membership(), strict=True)
        if not row[[3, 7]].any()
    ]
    assert list(kept.ids) == stay and set(kept.grouping.names) == set("01245689")
    table = ScoreTable.load(root / "scores" / "retrack-0.parquet")
    section = curation_section(run, table)
    assert section is not None and section.lines[0] in told
    assert [row[0] for row in section.rows] == found["group"].tolist()
    assert table.record.provenance is not None
    other = replace(table.record, provenance=replace(table.record.provenance, full_hash="other"))
    assert curation_section(run, replace(table, record=other)) is None
    guda("report", root)
    assert "Which groups should leave the data?" in (root / "report" / "index.html").read_text("utf-8")


@pytest.mark.parametrize("name", ["b", "b;c", 'b, "c"', "1e5"])
def test_a_sample_in_no_group_stays_and_one_in_two_groups_leaves_with_either(
    tmp_path: Path, name: str
) -> None:
    table, ids, kept = (tmp_path / file for file in ("some.jsonl", "ids.csv", "kept.jsonl"))
    groups = [["a"], ["a", name], [name, "c"], []]
    lines = [json.dumps({"id": str(row), "group": names}) for row, names in enumerate(groups)]
    table.write_text("\n".join(lines))
    ids.write_text("id\n0\n1\n2\n3\n")
    data = GroupDataModule(Listed(Shades(2), str(ids)), groups=str(table))
    for harmful, stay in ((["a"], [2, 3]), ([], [0, 1, 2, 3])):
        _write_groups(kept, data, harmful)
        again = GroupDataModule(Listed(Shades(2), str(kept)), groups=str(kept))
        assert list(again.ids) == [str(row) for row in stay]
        members = {group: again.grouping.forget([group]).tolist() for group in again.grouping.names}
        found = [{group for group, rows in members.items() if row in rows} for row in range(len(stay))]
        assert found == [set(groups[row]) for row in stay]


def test_verification_retrains_once_and_logs_what_the_page_shows(
    planted: tuple[Path, Path], guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, targets = planted
    run, made = RunFolder(root), list[tuple[tuple[str, ...], int]]()
    make = Retrainer.make

    def noted(self: Retrainer, groups: tuple[str, ...]) -> object:
        made.append((tuple(groups), self.seed))
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(self, groups)

    monkeypatch.setattr(Retrainer, "make", noted)
    verify = ("curate", root, "--target", targets, "--verify", "--seeds", "0,1")
    guda(*verify, code=130)
    assert not (run.curation / VERIFIED).exists()
    told = guda(*verify, "--wandb", "decisions")
    size = 11  # samples of the groups 3 and 7
    random = [(f"{size} random samples {seed}",) for seed in (0, 1)]
    assert made == [(("3", "7"), 0), (random[0], 0), (("3", "7"), 1), (("3", "7"), 1), (random[1], 1)]
    assert "curate: 2 of 4 models without 3+7, or as many random samples, are there\n" in told
    assert "curate: 2 models x 12 steps of 16 images: about" in told
    frame, about = load_frame(run.curation / VERIFIED, "guda curate RUN --verify")
    assert len(frame) == 8 and set(frame["removed"]) == {AFTER, RANDOM}
    before = {row["target"]: row["loss"] for row in about["targets"]}
    assert frame["loss"].sub(frame["target"].map(before)).tolist() == pytest.approx(frame["rise"].tolist())
    # What guda retrain and attribute say of the same removal, on the same noise.
    again = guda("retrain", "-c", f"{CONF}/digits.yaml", "--run", root, "--groups", "3+7", "--seeds", "0,1")
    assert again == "retrain: 2 complete, skipped: 3+7 (seed 0), 3+7 (seed 1)\n"
    scored = ("-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/attribute.yaml", "--run", root, "--groups", "3+7")
    guda("attribute", *scored, "--operator", "retrain")
    rises = ScoreTable.load(root / "scores" / "retrain-0.parquet").select(weighting="uniform").matrix()[:, 0]
    of_old = frame[(frame.target == "old") & (frame.removed == AFTER) & (frame.seed == 0)]
    assert float(of_old["rise"].iloc[0]) == pytest.approx(float(rises[:3].mean()))
    assert "beyond the seeds' spread" in told and "(seeds 0, 1)" in told
    logged = runs(root)["curate"]
    assert logged.about == (root.name, "curate", "curate")
    assert logged.config["method"] == "retrack" and logged.config["weighting"] == "uniform"
    table = ScoreTable.load(root / "scores" / "retrack-0.parquet")
    section = curation_section(run, table)
    assert section is not None
    assert logged.table("curation/answer")[1] == [[line] for line in section.lines]
    assert logged.table("curation/table")[1] == [list(row) for row in section.rows]
    guda("curate", root)  # of other target groups: the verification is not about these
    section = curation_section(run, table)
    assert section is not None and not any("Retrained" in line for line in section.lines)


def test_nothing_is_retrained_where_nothing_harms(finished_run: Path, guda: Guda) -> None:
    told = guda("curate", finished_run, "--verify")
    assert told.startswith("None of 10 groups is predicted to harm the target beyond its interval.\n")
    assert "curate: there is nothing to verify\n" in told
    assert len((finished_run / "curation" / GROUPS).read_text().splitlines()) == 64


def test_what_cannot_be_curated_is_refused(scored: Path, guda: Guda, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        return guda("curate", *arguments, code=2).removeprefix("error: ").rstrip("\n")

    similarity = scored / "scores" / "similarity-0.parquet"
    for told in (refused(scored), refused(scored, "--scores", similarity)):
        assert_message(
            told,
            f"{similarity} does not say how well the full model serves its queries",
            "scores of similarity, without squared errors of the full model",
            "scores of counterfactuals, whose squared errors are kept",
            "score the same queries with counterfactuals, such as --operator guidance, and name their table "
            "with --scores",
        )
    assert_message(
        refused(tmp_path / "none"),
        f"{tmp_path / 'none'} is no run folder",
        f"nothing at {tmp_path / 'none'}",
        "a folder that the stages wrote, with full, store or scores in it",
        "`guda runs` lists those below this folder",
    )
    path = scored / "scores" / "retrack-0.parquet"
    table = ScoreTable.load(path)
    full = table.record.full_hash
    assert table.record.provenance is not None
    other = replace(table.record, provenance=replace(table.record.provenance, full_hash="0" * 64))
    replace(table, record=other).save(path)
    assert_message(
        refused(scored, "--scores", path),
        f"{path} was made from something else: its full_hash differs",
        "0" * 16,
        f"{str(full)[:16]}, that of the run folder",
        "run guda attribute again, or name another table with --scores",
    )
    harmful = pc.subtract(table.table["score"], 1000.0)
    rows = table.table.set_column(table.table.schema.get_field_index("score"), "score", harmful)
    replace(table, table=rows).save(path)
    assert_message(
        refused(scored, "--scores", path),
        "the groups that are predicted to harm the target hold all training samples",
        "10 harmful groups of 10",
        "samples that stay",
        "train the full model until it serves the target, or score by another method",
    )
    assert_message(
        refused(scored, "--seeds", "0,1"),
        "seeds are those of trainings, and nothing is to be trained",
        "--seeds 0,1",
        "--verify, which trains",
        "pass --verify, too, or leave out --seeds",
    )
    table.save(path)
    shutil.rmtree(scored / "queries")  # those of the table are kept beside it
    guda("curate", scored, "--scores", path)
    record = scored / "full" / "record.json"
    record.unlink()
    record.with_name("seal.json").unlink()
    assert_message(
        refused(scored, "--scores", path),
        f"{scored} does not say what its full model was trained on",
        f"no configuration in {record}",
        "a full model that guda fit trained",
        "run guda fit first, or pass -c with the configuration of this run",
    )


def test_one_process_works_whatever_number_trained(
    finished_run: Path, guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = finished_run / "several.yaml"
    file.write_text(
        "trainer: {accelerator: cpu, devices: 2, strategy: ddp}\ndata: {init_args: {batch_size: 8}}\n"
    )
    several = ("-c", f"{CONF}/digits.yaml", "-c", file)
    assert_message(
        guda("curate", finished_run, *several, code=2).removeprefix("error: ").rstrip("\n"),
        "guda curate works in one process",
        "2 processes",
        "one: it ranks groups and trains one model after the other",
        "leave out -c: the configuration of RUN/full is then followed by one process",
    )
    given: list[str] = []

    def parsed(_stage: object, arguments: Sequence[str]) -> object:
        given.extend(arguments)
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr("guda_lightning.cli.stage.parse", parsed)
    guda("curate", finished_run)
    assert given[2:6] == ["--trainer.devices", "1", "--trainer.num_nodes", "1"]


def test_a_name_that_means_other_groups_is_refused_before_any_training(
    planted: tuple[Path, Path], guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, targets = planted

    def joint(_self: GroupNames, names: Sequence[str]) -> str:
        raise GroupError("'3+7' means several groups", found=sorted(names), expected="one", fix="rename")

    monkeypatch.setattr(GroupNames, "joint", joint)
    monkeypatch.setattr(Retrainer, "make", lambda *_: pytest.fail("trained"))
    told = guda("curate", root, "--target", targets, "--verify", code=2)
    assert told.startswith("error: '3+7' means several groups\n  found:    ['3', '7']\n")


def test_samples_of_the_model_and_pseudo_groups_are_called_that(
    planted: tuple[Path, Path], guda: Guda, tmp_path: Path
) -> None:
    root, targets = planted
    own = "The queries are samples of the model itself, from RUN/queries: how badly it serves other images"
    pseudo = "Pseudo-groups are split by the same scores that they test"
    told = {None: words(guda("curate", root)), targets: words(guda("curate", root, "--target", targets))}
    assert own in told[None] and pseudo in told[None]
    assert own in told[targets] and pseudo not in told[targets]
    groups, about = load_frame(RunFolder(root).curation / FOUND, "guda curate RUN")
    found = Curation(groups, pd.DataFrame(about["targets"]))
    lines = curation_lines(found, {**about, "sized": True}, None)
    assert any("the sum of scores by which they were chosen, so it promises" in line for line in lines)
    held_out = tmp_path / "held-out"
    shutil.copytree(root / "queries", held_out)
    (held_out / "sample-4.png").unlink()
    for name in ("record.json", "metadata.jsonl", "seal.json"):
        (held_out / name).unlink()
    scored = ("-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/attribute.yaml", "--run", root)
    guda("attribute", *scored, "--operator", "retrack", "--queries", held_out)
    (table,) = (root / "scores").glob("*held-out*.parquet")
    assert own not in words(guda("curate", root, "--scores", table))


def words(text: str) -> str:
    return " ".join(text.split())


def assert_message(told: str, problem: str, found: str, expected: str, fix: str) -> None:
    import re

    assert re.search(message(problem, found, expected, fix), told), told
