"""The benchmarks run: all of their code at a tiny size, away from the documents of the repository."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.dampings import DAMPED
from benchmarks.methods import METHODS
from benchmarks.profiled import own_times
from benchmarks.slices import OVER, slice_of
from benchmarks.stages import DOCS
from benchmarks.tables import write_table
from PIL import Image

import struck
from guda_lightning.storage.yardsticks import Yardstick
from warm import Server

Toy = Callable[..., None]
ORACLE = "another oracle seed"
CONFIGS = Path(__file__).parents[1] / "configs"
# What tells the rows of a table apart, as a column and the values that it has.
TABLES: dict[str, tuple[str, set[str]]] = {
    "forget-target": ("neighbours", {"10", "all 1619"}),
    "stages": ("network evaluations", {"512", "18", "2560", "6600", "0", "9690"}),
    "methods": ("method", {"oracle agreement", "chance", "guidance", "retrack", "similarity"}),
    "lds": ("method", {ORACLE, "summed retrainings", "guidance", "retrack"}),
    "dampings": ("method", {"trak", "dtrak"}),
    "digits": ("method", {ORACLE, "guidance", "retrack", "similarity"}),
    "guidance": ("method", {ORACLE, "guidance", "retrack", "guided", "similarity"}),
    "speed": ("method", {ORACLE, "guidance", "retrack"}),
    "classifiers": ("classifier", {ORACLE, "dense (default)", "dense, 1500 steps"}),
    "mixtures": (
        "posterior",
        {ORACLE, "dense classifier", "convolutional classifier", "patch kernel", "image kernel"}
        | {"both classifiers", "half kernel where mse < .05", "half kernel where mse < .05, scores"}
        | {"half kernel", "r²/2 kernel", ".05/(.05 + mse) kernel", "fitted share of kernel"},
    ),
    "nda": ("window", {ORACLE, "similarity", "3, anywhere", "7, anywhere"}),
    "regroup": ("groups", {"3 added", "3 removed"}),
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
    "screening": ("screen", {"guidance", "similarity"}),
    "screening-cost": ("groups", {"5", "6"}),
    "ensembles": ("method", {"another ensemble", "guidance", "similarity", "random"}),
    "early": (
        "",
        {
            f"{method}, {how}"
            for method in ("guidance", "retrack")
            for how in ("100 timesteps", "race for the top 1", "race for the top 3")
        },
    ),
    "spoiled": (
        "counterfactual",
        {
            *("guided, 3 steps instead of 30", "guided", "guided, of another group"),
            *("retrack, 2 steps", "retrack, 30 steps: too far"),
            *("retrain, seed 0", "retrain, seed 1", "guidance", "all good ones", "all spoiled ones"),
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
    "sizing-rate": ("network", {"0.70 M, 8 × 8", "2.79 M, 8 × 8"}),
    "sizing-small": ("method", {"guidance", "retrack, all weights", "retraining, one seed"}),
    "sizing-paper": ("method", {"guidance", "retrack, all weights", "retraining, one seed"}),
    "sizing-sd": (
        "method",
        {"anchors, LoRA of rank 8", "anchors, all weights", "retraining, one seed"},
    ),
    "streaming": ("queries", {"3", "5"}),
    "load": ("how many", {"5", "12", "20", "40", "1,000"}),
    "gradients-memory": ("training samples", {"600"}),
    "estimates": ("stage", {"fit", "retrain", "unlearn", "sample", "attribute"}),
    "hot-loops": ("form", {"bare", "ours", "straightforward", "reference"}),
    "startup": (
        "command",
        {
            "the imports",
            *(f"fit, complete, {how}" for how in ("the long way", "same inputs")),
            "unlearn, complete",
            "a path that does not exist",
            "--help",
        },
    ),
    "curate": ("method", {"guidance", "retrack"}),
    "radius": ("a group is", {"a tenth of the data", "about 22 images"}),
    "balance": (
        "trained on",
        {"unbalanced", "rare ones repeated", "as many real ones"}
        | {"with what was drawn and leads", "with all that was drawn first"},
    ),
    "sweeps": ("hyper-parameters", {"retrack", "retrack lr 1e-3"}),
}
QUICK = ("methods", "yardsticks", "gradients_memory")
FIGURES = {
    "dampings",
    "draws",
    "evaluations",
    "forget_weight",
    "groups",
    "methods",
    "neighbours",
    "steps",
    "styles",
    "yardstick_digits",
}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """Run benchmarks as toys in a temporary folder."""

    def run(*names: str) -> None:
        main(["--toy", str(tmp_path), "--seeds", "2", "--classes", "2", *names])

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
    for name in (name.replace("_", "-") for name in names):
        page = folder / "docs" / ("sizing.md" if name == "sizing" else "benchmarks.md")
        for table in (table for table in TABLES if table == name or table.startswith(f"{name}-")):
            column, expected = TABLES[table]
            assert {row[column] for row in rows(page, table)} == expected, table


@pytest.mark.torture
def test_benchmarks_run_as_toys_and_go_on_where_they_were_stopped(toy: Toy, tmp_path: Path) -> None:
    measured = files(DOCS)
    toy(*QUICK, "--classes", "1")
    assert files(DOCS) == measured
    named_rows_are_there(tmp_path, QUICK)
    text = (tmp_path / "docs" / "benchmarks.md").read_text("utf-8")
    assert "python -m benchmarks methods --seeds 2 --classes 1 --toy FOLDER" in text
    assert {row["data"] for row in rows(tmp_path / "docs" / "benchmarks.md", "methods")} == {
        "digits",
        "halves",
    }
    assert "`esd`, as it needs a conditional model" in text

    packed = Yardstick.open(tmp_path / "yardsticks" / "digits.json")
    assert packed.card["oracle_seeds"] == [0, 1]
    assert str(tmp_path) not in packed.path.read_text()

    before = stages(tmp_path)
    toy("methods", "--classes", "1", "--only", "retrack")
    assert stages(tmp_path) == before
    named_rows_are_there(tmp_path, ["methods"])  # what is scored already stays

    toy("dampings", "--only", "trak")  # beside the same full model
    found = rows(tmp_path / "docs" / "benchmarks.md", "dampings")
    assert [(row["method"], row["λ"]) for row in found] == [("trak", "0.01"), ("trak", "0.1")]
    assert [row["chosen"] for row in found].count("yes") == 1
    assert all(re.fullmatch(r"-?[01]\.\d{3} \[-?[01]\.\d\d, -?[01]\.\d\d\]", row["LDS"]) for row in found)


@pytest.mark.torture
@pytest.mark.timeout(7200)  # a quarter of an hour on a machine that does nothing else
def test_every_benchmark_runs_as_a_toy(toy: Toy, tmp_path: Path) -> None:
    names = [name for name in BENCHMARKS if not name.startswith("cifar10")]
    toy(*names)
    assert {name.replace("_", "-") for name in names} - TABLES.keys() == {
        *("demo", "evaluations", "sizing", "yardsticks")
    }
    named_rows_are_there(tmp_path, names)
    assert {path.stem for path in (tmp_path / "docs" / "images").glob("*.png")} == FIGURES


@pytest.mark.torture
@pytest.mark.skipif(
    "GUDA_CIFAR10" not in os.environ, reason="no CIFAR-10: set GUDA_CIFAR10 to its Parquet file"
)
def test_those_of_cifar10_run_as_toys(tmp_path: Path) -> None:
    given = ["--cifar10", os.environ["GUDA_CIFAR10"]]
    main(["cifar10", "cifar10_steps", *given, "--toy", str(tmp_path), "--seeds", "2"])
    found = {row["method"] for row in rows(tmp_path / "docs" / "benchmarks.md", "cifar10")}
    assert found == {ORACLE, "guidance", "retrack", "guided", "similarity"}
    images = {path.stem for path in (tmp_path / "docs" / "images").glob("*.png")}
    assert images == {"steps_cifar10", "yardstick_cifar10"}


@pytest.fixture
def tiny_cifar10(tmp_path: Path) -> Path:
    """A folder with noise in place of CIFAR-10: eight pictures in each of two of the classes."""
    rng, pictures = np.random.default_rng(0), []
    for _ in range(16):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": ""})
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"img": pictures, "label": [0, 1] * 8}), folder / "train.parquet")
    return folder


@pytest.mark.torture
def test_a_benchmark_in_slices_ends_by_its_alarm_and_goes_on(
    tiny_cifar10: Path, tmp_path: Path, warm: Server
) -> None:
    command = ["cifar10_gpu", "--cifar10", str(tiny_cifar10), "--toy", str(tmp_path)]
    page = tmp_path / "docs" / "benchmarks.md"
    first, log = [*command, "--minutes", "1000"], tmp_path / "log.txt"
    # The alarm of the time rings while the second model of the oracle is stored.
    with warm.process(log, struck.benchmark, first, "SIGALRM", 2, "/store/") as process:
        assert process.wait() == OVER == 75, log.read_text()
    assert log.read_text().endswith("slice over, run the same command again\n")
    assert "Not measured yet" in page.read_text("utf-8")
    finished = {path: cost for path, cost in stages(tmp_path).items() if json.loads(cost)["complete"]}

    main(command)
    assert finished.items() <= stages(tmp_path).items()  # what was complete has not run again
    found = {row["method"] for row in rows(page, "cifar10_gpu")}
    assert found == {ORACLE, "guidance", "retrack", "zero_target", "similarity"}


class _Busy:
    def __del__(self) -> None:
        signal.pause()  # until the time is over


def test_a_slice_that_is_not_over_leaves_other_ends_alone() -> None:
    numbers = (signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(SystemExit, match=r"^1$"), slice_of(1):
        raise SystemExit(1)
    with pytest.raises(KeyboardInterrupt), slice_of(None):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit, match=r"^75$"), slice_of(0.001):
        signal.pause()
    with pytest.raises(SystemExit, match=r"^75$"), slice_of(0.001):
        _Busy()  # ends at once, and its finaliser is busy when the time is over
        signal.pause()
    assert [signal.getsignal(number) for number in numbers] == before


def test_time_under_a_label_inside_another_counts_once() -> None:
    found = own_times(
        [(0, 10, "outer"), (1, 4, "inner"), (2, 3, "outer"), (4, 5, "inner"), (12, 15, "inner")]
    )
    assert found == {"outer": 10 - 3 - 1 + 1, "inner": 3 - 1 + 1 + 3}


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


def test_a_method_that_does_not_exist_is_refused_with_those_that_do(toy: Toy) -> None:
    with pytest.raises(SystemExit, match=f"^no method 'tracken': choose from {', '.join(METHODS)}$"):
        toy("methods", "--only", "retrack,tracken")
    with pytest.raises(SystemExit, match=f"^no method 'nda': choose from {', '.join(DAMPED)}$"):
        toy("dampings", "--only", "trak,nda")  # has no λ


def test_the_configuration_of_every_method_comes_along() -> None:
    for name, method in METHODS.items():
        for options in (method.scored, method.made):
            for option, file in pairwise(options):
                assert option != "-c" or (CONFIGS / file).is_file(), name
