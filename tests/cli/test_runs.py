"""``guda runs`` and ``guda doctor``: what lies in run folders, and what goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from guda_lightning.cli.doctor import extras, wandb_state
from guda_lightning.cli.main import main
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.files import temporary_name
from guda_lightning.storage.run_state import run_state
from guda_lightning.storage.runs import RunFolder
from guda_lightning.version import __version__
from toys import edit_json, reseal


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


def test_runs_lists_what_every_folder_holds(
    finished_run: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = finished_run.parent / "more" / "unfinished" / "checkpoints" / "full"
    beside.mkdir(parents=True)
    (beside / "last.ckpt").touch()
    (finished_run.parent / "pictures").mkdir()
    heads, *rows = said("runs", finished_run.parent).splitlines()
    assert heads.split("  ")[0] == "run"
    assert [row.split()[1] for row in rows] == ["none", "complete"]
    cells = ["complete", "5", "10", "10", "retrack", "retrack-0", "not", "evaluated"]
    assert rows[1].split()[1:9] == cells
    monkeypatch.chdir(finished_run.parent)
    assert [row.split()[0] for row in said("runs").splitlines()[1:]] == ["more/unfinished", "tiny"]
    first, second = json.loads(said("runs", finished_run.parent, "--json"))
    assert (first["full"], second["full"]) == ("none", "complete")
    assert second["counterfactuals"] == {"retrack": 10}
    assert [table["name"] for table in second["tables"]] == ["retrack-0"]
    assert json.loads(said("runs", finished_run, "--json")) == [second]  # a run folder itself
    assert "no run folders in" in said("runs", finished_run.parent / "pictures")


def test_what_is_there_decides_what_goes_on(finished_run: Path, tmp_path: Path) -> None:
    run = RunFolder(finished_run)
    named = f"-c FILE --run {finished_run}"
    assert run_state(run).next == (f"guda retrain {named} --seeds 0,1",)
    (run.full / "record.json").rename(tmp_path / "record.json")
    assert run_state(run).damaged == (f"{run.full}/record.json: no such file",)  # its seal names it
    (run.full / "seal.json").rename(tmp_path / "seal.json")
    assert (run_state(run).full, run_state(run).next) == ("no record", ())
    run.full.rename(tmp_path / "full")
    assert (run_state(run).full, run_state(run).next) == ("elsewhere", ())
    (tmp_path / "full").rename(run.full)
    for name in ("record.json", "seal.json"):
        (tmp_path / name).rename(run.full / name)
    assert run_state(run).groups == tuple("0123456789")
    (table,) = run.scores.glob("*.parquet")
    page = run.report / "index.html"
    os.utime(page, (0, 0))
    assert run_state(run).page == "older than the scores"
    assert run_state(run).next == (f"guda report {finished_run}",)
    table.unlink()
    assert run_state(run).next == (f"guda attribute {named}",)
    shutil.rmtree(run.store)
    assert run_state(run).next == (f"guda guide {named}", f"guda attribute {named} --operator guidance")
    shutil.rmtree(run.queries)
    assert run_state(run).next[0] == f"guda sample {named}"
    shutil.rmtree(run.full)
    assert run_state(run).next == (f"guda fit {named}",)
    # What an audit leaves that was interrupted before anything was made: its full model lies elsewhere.
    checkpoint = run.root / "checkpoints" / "guidance" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert run_state(run).next == ("the command that was interrupted, which goes on where it was",)


def test_what_is_half_written_stale_or_damaged_is_named(finished_run: Path, said: Any) -> None:
    run = RunFolder(finished_run)
    unfinished = run.checkpoints("full")
    unfinished.mkdir(parents=True)
    (unfinished / "last.ckpt").touch()
    left = temporary_name(run.full)
    left.mkdir()
    record = run.full / "record.json"
    edit_json(record, lambda value: value | {"full_hash": "0" * 64})
    (run.scores / "broken-0.parquet").write_bytes(b"PAR1")
    found = json.loads(said("doctor", finished_run, "--json"))["run"]
    assert found["unfinished"] == [
        f"{unfinished}: an interrupted training or drawing, which goes on from there",
        f"{left}: left by a write that was killed; the next command removes it",
    ]
    assert found["stale"] == [
        "10 of retrack: made from another full model",
        "scores retrack-0: of another full model",
    ]
    (damaged,) = found["damaged"]
    assert damaged.startswith(f"{run.scores}/broken-0.parquet: ")
    assert found["next"] == [
        "remove what is stale or damaged, but what --full made of another model on purpose, and run the "
        "command that makes it again"
    ]
    text = said("doctor", finished_run)
    assert f"    {damaged}\n" in text and "  stale:\n    10 of retrack: made" in text


def test_tables_whose_models_are_gone_are_named(finished_run: Path, tmp_path: Path) -> None:
    run = RunFolder(finished_run)
    assert run_state(run).stale == ()
    run.store.rename(tmp_path / "store")
    assert run_state(run).stale == (f"scores retrack-0: what made them is not in {run.store}",)
    (run.root / "yardstick.yaml").touch()
    (run.scores / "retrack-0.parquet").rename(run.scores / "retrain-0.parquet")
    assert run_state(run).stale == ()  # the oracle of a yardstick comes without its models


def test_doctor_hashes_the_full_model_and_lists_do_not(finished_run: Path, said: Any) -> None:
    path = finished_run / "full" / "unet" / "config.json"
    path.write_text(path.read_text().replace("8", "9", 1))
    (found,) = json.loads(said("runs", finished_run, "--json"))
    assert found["damaged"] == []
    (line,) = json.loads(said("doctor", finished_run, "--json"))["run"]["damaged"]
    assert line.startswith(f"{path} is damaged: contents with sha256 ")


def test_links_to_nothing_end_no_list(finished_run: Path, said: Any) -> None:
    (finished_run / "cache").symlink_to(finished_run / "none")
    (finished_run / "scores" / "gone-0.parquet").symlink_to(finished_run / "none")
    (found,) = json.loads(said("runs", finished_run, "--json"))
    assert found["damaged"] == [f"{finished_run}/scores/gone-0.parquet: a link to nothing"]
    assert "complete" in said("runs", finished_run)


def test_a_run_folder_may_be_named_by_a_variable(
    finished_run: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_MINE", str(finished_run))
    monkeypatch.chdir(finished_run.parent)
    assert json.loads(said("doctor", "$OF_MINE", "--json"))["run"]["run"] == str(finished_run)
    table = "${OF_MINE}/scores/retrack-0.parquet"
    assert f"{finished_run}/report/report.csv" in said(
        "report", "$OF_MINE", "--scores", table, "--format", "csv"
    )


def test_the_best_method_is_the_one_that_the_page_puts_first(finished_run: Path) -> None:
    run = RunFolder(finished_run)
    (table,) = run.scores.glob("*.parquet")
    compared = {"methods": {table.stem: ScoreTable.load_record(table).hash}, "oracles": {}}
    rows = [
        {"weighting": weighting, "noise": noise, "method": method, "yardstick": yardstick, "value": value}
        for weighting, noise, method, yardstick, value in (
            ("elbo", "all draws", "retrack-0", "other seeds", 0.9),
            ("elbo", "all draws", "oracle", "other seeds", 0.5),
            ("uniform", "all draws", "retrack-0", "all seeds", 0.8),
            ("uniform", "all draws", "retrack-0", "other seeds", 0.3),
            ("uniform", "all draws", "oracle", "other seeds", 0.6),
            ("uniform", "disjoint draws", "retrack-0", "other seeds", 0.7),
        )
    ]
    same = {"metric": "top1", "low": 0.2, "high": 1.0, "chance": 0.1}
    for hash in (compared["methods"][table.stem], "of scores that are gone"):
        record = {**compared, "methods": {table.stem: hash}}
        written = pa.Table.from_pylist([{**row, **same} for row in rows])
        run.evaluation.mkdir(exist_ok=True)
        metadata = {"guda_lightning": json.dumps({"format": 1, "record": record})}
        pq.write_table(written.replace_schema_metadata(metadata), run.evaluation / "metrics.parquet")
        reseal(run.evaluation)
        best = run_state(run).best
        assert (None if best is None else (best.method, best.top1, best.above_chance)) == (
            ("retrack-0", 0.3, True) if hash in compared["methods"].values() else None
        )


def test_doctor_tells_what_is_installed(said: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(said("doctor", "--json"))
    assert found["versions"]["guda-lightning"] == __version__
    assert found["devices"][0].endswith("threads of torch")
    assert found["wandb"] == "offline, as WANDB_MODE says"  # of the tests
    assert found["disk_free_bytes"] > 0 and "run" not in found
    names = {one.name: one for one in extras()}
    assert {"report", "digits", "ray", "text"} <= names.keys() and "dev" not in names
    assert names["report"].missing == () and names["report"].gives == "guda report: the page"
    assert re.search(r"^ +report +installed", said("doctor"), re.MULTILINE)


def test_doctor_says_where_wandb_logs(tmp_path: Path) -> None:
    keys = tmp_path / "netrc"
    assert wandb_state({"NETRC": str(keys)}).startswith("not logged in: ")
    keys.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert wandb_state({"NETRC": str(keys)}) == f"logged in to api.wandb.ai by {keys}"
    own = {"NETRC": str(keys), "WANDB_BASE_URL": "https://wandb.mine.org"}
    assert wandb_state(own).startswith("not logged in: ")
    assert wandb_state({**own, "WANDB_API_KEY": "x"}) == "logged in to wandb.mine.org by WANDB_API_KEY"
