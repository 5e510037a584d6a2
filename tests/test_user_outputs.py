"""What a command would replace and did not write is the user's: refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guda_lightning.cli.main import main

CONF = Path(__file__).parent / "conf"


def command(stage: str, run: Path, *files: str) -> list[str]:
    return [
        stage,
        *(part for file in ("digits", *files) for part in ("-c", f"{CONF}/{file}.yaml")),
        "--run",
        str(run),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fit_replaces_no_full_model_that_it_did_not_write(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = finished_run / "full"
    (full / "record.json").unlink()  # a diffusers folder that the user put there
    (full / "notes.txt").write_text("mine")
    before = contents(finished_run)
    assert main(command("fit", finished_run)) == 2
    assert capsys.readouterr() == (
        "",
        f"error: {full} was not written by guda fit, which would replace it\n"
        "  found:    a folder without record.json, with model_index.json, notes.txt, scheduler, …\n"
        "  expected: no such folder, an empty one, or what guda fit wrote\n"
        "  fix:      move it away, or pass --full with it to the other stages, and another --run here\n",
    )
    assert contents(finished_run) == before


def test_an_empty_folder_is_filled(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "full").mkdir(parents=True)
    assert main(command("fit", run)) == 0
    assert (run / "full" / "record.json").is_file()


def test_sample_replaces_no_pictures_of_the_user(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = finished_run / "queries"
    (queries / "record.json").unlink()
    before = contents(finished_run)
    assert main(command("sample", finished_run, "sample")) == 2
    assert capsys.readouterr() == (
        "",
        f"error: {queries} was not written by guda sample, which would replace it\n"
        "  found:    a folder without record.json, with metadata.jsonl, sample-0.png, sample-1.png, …\n"
        "  expected: no such folder, an empty one, or what guda sample wrote\n"
        "  fix:      move it away, or name it with --queries and use another --run\n",
    )
    assert contents(finished_run) == before


@pytest.mark.parametrize(
    ("form", "name", "mark"),
    [
        ("html", "index.html", 'content="guda-lightning '),
        ("json", "report.json", '"guda-lightning '),
        ("csv", "report.csv", "table,method,weighting,seeds,query,group,score,stderr,unit,sized,level"),
    ],
)
def test_report_replaces_no_page_of_the_user(
    finished_run: Path, capsys: pytest.CaptureFixture[str], form: str, name: str, mark: str
) -> None:
    report = ["report", str(finished_run), "--format", form]
    page = finished_run / "report" / name
    assert main(report) == 0 and main(report) == 0  # its own
    page.write_text("mine")
    capsys.readouterr()
    assert main(report) == 2
    assert capsys.readouterr().err == (
        f"error: {page} was not written by guda report, which would replace it\n"
        f"  found:    a file without {mark}\n"
        "  expected: no such file, or what guda report wrote\n"
        "  fix:      move it away\n"
    )
    assert page.read_text() == "mine"


def test_evaluate_replaces_no_folder_of_the_user(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = finished_run / "evaluation"
    shutil.rmtree(evaluation, ignore_errors=True)
    evaluation.mkdir()
    (evaluation / "notes.txt").write_text("mine")
    assert main(["evaluate", str(finished_run)]) == 2
    assert capsys.readouterr().err == (
        f"error: {evaluation} was not written by guda evaluate, which would replace it\n"
        "  found:    a folder without *.parquet, with notes.txt\n"
        "  expected: no such folder, an empty one, or what guda evaluate wrote\n"
        "  fix:      move it away\n"
    )
    assert (evaluation / "notes.txt").read_text() == "mine"
