"""The benchmarks run: all of their code at a tiny size, away from the documents of the repository."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.stages import DOCS
from benchmarks.tables import write_table

Toy = Callable[..., None]
ORACLE = "another oracle seed"
# What tells the rows of a table apart, as a column and the values that it has.
TABLES: dict[str, tuple[str, set[str]]] = {
    "forget-target": ("neighbours", {"10", "all 1619"}),
    "stages": ("network evaluations", {"512", "18", "2560", "6600", "0", "9690"}),
    "digits": ("method", {ORACLE, "guidance", "retrack", "similarity"}),
    "guidance": ("method", {ORACLE, "guidance", "retrack", "guided", "similarity"}),
    "speed": ("method", {ORACLE, "guidance", "retrack"}),
    "classifiers": ("classifier", {ORACLE, "dense (default)", "dense, 1500 steps"}),
    "halves": ("method", {"oracle", "guidance", "guided", "retrack", "similarity"}),
    "tenths": ("method", {"oracle", "guidance", "guided", "retrack", "similarity"}),
    "mislabelled": (
        "method",
        {
            f"{method}, {labels}"
            for method in ("guidance", "retrack")
            for labels in ("right labels", "5 % wrong")
        },
    ),
    "coalitions": ("method", {"oracle", "guidance", "retrack"}),
    "groups": ("method", {"retraining", "guidance", "retrack"}),
    "early": (
        "",
        {
            f"{method}, {how}"
            for method in ("guidance", "retrack")
            for how in ("100 timesteps", "race for the top 1", "race for the top 3")
        },
    ),
    "styles": (
        "method",
        {ORACLE, "weighted_style", "uniform_style", "retrack", "similarity"}
        | {f"weighted_style rank{rank}" for rank in (1, 4)},
    ),
    "memory": (
        "stage",
        {f"{stage}, {what}" for stage in ("fit", "unlearn") for what in ("all weights", "LoRA")}
        | {"attribute, 16 evaluations at a time"},
    ),
    "sweeps": ("hyper-parameters", {"retrack", "retrack lr 1e-3"}),
}
QUICK = ("digits", "halves", "coalitions", "early", "memory")
FIGURES = {
    "draws",
    "evaluations",
    "forget_weight",
    "groups",
    "neighbours",
    "steps",
    "styles",
    "yardstick_digits",
}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """Run benchmarks as toys in a temporary folder."""

    def run(*names: str) -> None:
        main([*names, "--toy", str(tmp_path), "--seeds", "2", "--classes", "2"])

    return run


def rows(page: Path, name: str) -> list[dict[str, str]]:
    """The table between the markers of a benchmark."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text("utf-8"), re.DOTALL)
    assert found
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, cells, strict=True)) for cells in body]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stages(folder: Path) -> dict[Path, bytes]:
    """What every stage that has run to its end did cost, to the last digit."""
    return {path: path.read_bytes() for path in folder.rglob("costs/*.json")}


def named_rows_are_there(folder: Path, names: Sequence[str]) -> None:
    page = folder / "docs" / "benchmarks.md"
    for name in (name.replace("_", "-") for name in names):
        if name in TABLES:
            column, expected = TABLES[name]
            assert {row[column] for row in rows(page, name)} == expected, name


@pytest.mark.slow
def test_benchmarks_run_as_toys_and_go_on_where_they_were_stopped(toy: Toy, tmp_path: Path) -> None:
    measured = files(DOCS)
    toy(*QUICK)
    assert files(DOCS) == measured
    named_rows_are_there(tmp_path, QUICK)
    text = (tmp_path / "docs" / "benchmarks.md").read_text("utf-8")
    assert "python -m benchmarks digits --seeds 2 --toy FOLDER" in text

    before = stages(tmp_path)
    toy("coalitions")
    assert stages(tmp_path) == before


@pytest.mark.slow
@pytest.mark.skipif(
    "GUDA_BENCHMARKS" not in os.environ, reason="GUDA_BENCHMARKS is not set: all toys take minutes"
)
def test_every_benchmark_runs_as_a_toy(toy: Toy, tmp_path: Path) -> None:
    names = [name for name in BENCHMARKS if not name.startswith("cifar10")]
    toy(*names)
    assert {name.replace("_", "-") for name in names} - TABLES.keys() == {"demo", "evaluations"}
    named_rows_are_there(tmp_path, names)
    assert {path.stem for path in (tmp_path / "docs" / "images").glob("*.png")} == FIGURES


@pytest.mark.slow
@pytest.mark.skipif(
    "GUDA_CIFAR10" not in os.environ, reason="GUDA_CIFAR10 does not name a Parquet file of CIFAR-10"
)
def test_those_of_cifar10_run_as_toys(tmp_path: Path) -> None:
    given = ["--cifar10", os.environ["GUDA_CIFAR10"]]
    main(["cifar10", "cifar10_steps", *given, "--toy", str(tmp_path), "--seeds", "2"])
    found = {row["method"] for row in rows(tmp_path / "docs" / "benchmarks.md", "cifar10")}
    assert found == {ORACLE, "guidance", "retrack", "guided", "similarity"}
    images = {path.stem for path in (tmp_path / "docs" / "images").glob("*.png")}
    assert images == {"steps_cifar10", "yardstick_cifar10"}


def test_what_cannot_be_run_is_refused_before_anything_is_made(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (
        ("digit", f"no benchmark 'digit': choose from {', '.join(BENCHMARKS)}"),
        ("cifar10", "cifar10 needs --cifar10 FILE: Parquet with the columns img and label"),
    ):
        with pytest.raises(SystemExit):
            toy("digits", name)
        assert capsys.readouterr().err.splitlines()[-1] == f"python -m benchmarks: error: {said}"
    assert not list(tmp_path.iterdir())


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n")
    with pytest.raises(SystemExit, match=f"^{page} has no markers <!-- new --> and <!-- /new -->$"):
        write_table(tmp_path, "new", "a command", [{"method": "a"}])
    assert page.read_text() == "# Benchmarks\n"
