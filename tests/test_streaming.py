"""Queries that are scored in chunks: the scores of all at once, nothing twice, only what changed again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from guda_lightning import ScoreTable
from guda_lightning.attribution import (
    AttributionContext,
    CounterfactualAttributor,
    FittedELBOAttributor,
    PixelSimilarity,
    chunks,
)
from guda_lightning.attribution.chunks import ChunkedTable, StreamedQueries
from guda_lightning.cli.main import main
from guda_lightning.data import GroupDataModule, QueryFolder, load_queries, query_hash
from guda_lightning.diffusion import DiffusionModule, open_full
from guda_lightning.errors import QueryError
from guda_lightning.report.attribution_log import Attribution
from guda_lightning.report.run import report_run
from guda_lightning.scores import Scoring, SquaredErrors, stored_errors
from guda_lightning.scores.record import ChunkRecord
from toys import Shades, gray_queries, message, reseal, tiny_full, tiny_unet

CONF = Path(__file__).parent / "conf"
PER_QUERY = 10 * 11  # 5 strata x 2 draws, ten groups and the full model
Attribute = Callable[..., str]


@pytest.fixture
def attribute(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> Attribute:
    """Score the five queries of a run again; what was printed."""
    files = [part for name in ("digits", "attribute") for part in ("-c", str(CONF / f"{name}.yaml"))]

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["attribute", *files, "--run", str(finished_run), *arguments]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


@pytest.fixture
def table_path(finished_run: Path) -> Path:
    return finished_run / "scores" / "retrack-0.parquet"


def evaluations(out: str) -> int:
    """Network evaluations that were announced; what is announced is what is missing."""
    found = re.findall(r"(\d+) network evaluations", out)
    return sum(map(int, found))


def forget_scores(run: Path) -> None:
    shutil.rmtree(run / "scores")


def in_chunks_of(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(chunks, "CHUNK_QUERIES", count)


def repaint(run: Path, query: int) -> None:
    pixels = np.random.default_rng(query).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(run / "queries" / f"sample-{query}.png")
    reseal(run / "queries")


@pytest.mark.parametrize("batch_size", [256, 10])
def test_scores_do_not_depend_on_chunks(
    finished_run: Path,
    table_path: Path,
    attribute: Attribute,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    forget_scores(finished_run)
    attribute("--scoring.batch_size", str(batch_size))
    whole = ScoreTable.load(table_path)
    whole_errors = stored_errors(whole, finished_run / "scores" / "errors")
    forget_scores(finished_run)
    in_chunks_of(monkeypatch, 2)
    out = attribute("--scoring.batch_size", str(batch_size))
    assert evaluations(out) == 5 * PER_QUERY
    assert "attribute: page and W&B show the first 2 of 5 queries\n" in out

    parts = ScoreTable.load(table_path)
    asked = load_queries(finished_run / "queries", (1, 8, 8))
    hashes = [query_hash(asked.take(rows)) for rows in ([0, 1], [2, 3], [4])]
    each = tuple(ChunkRecord(n, digest) for n, digest in zip((2, 2, 1), hashes, strict=True))
    assert parts.record == replace(whole.record, chunks=each)
    assert [part.queries for part in ScoreTable.load_parts(table_path)] == [
        ("sample-0", "sample-1"),
        ("sample-2", "sample-3"),
        ("sample-4",),
    ]
    for weighting in whole.weightings:
        one, other = (table.select(weighting=weighting) for table in (whole, parts))
        assert (one.queries, one.groups) == (other.queries, other.groups)
        for first, second in ((one.matrix(), other.matrix()), (one.stderr_matrix(), other.stderr_matrix())):
            # Batches are others, and so is the order of sums; a score is a difference of errors.
            torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5 * float(first.abs().max()))
    errors = stored_errors(parts, finished_run / "scores" / "errors")
    for group, found in errors.items():
        assert found.query_ids == whole_errors[group].query_ids
        torch.testing.assert_close(found.errors, whole_errors[group].errors, rtol=1e-5, atol=0)
        assert found.record == whole_errors[group].record
    assert not list((finished_run / "scores").glob("*.parts"))


def test_a_complete_table_is_skipped_whatever_its_chunks(
    attribute: Attribute, table_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table_path.read_bytes()
    in_chunks_of(monkeypatch, 2)
    assert attribute().endswith(f"attribute: {table_path} is complete, skipped\n")
    assert table_path.read_bytes() == before


def test_page_and_wandb_show_the_first_chunk_and_say_so(
    finished_run: Path, attribute: Attribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[tuple[str, ...], ...]] = []

    def log(loggers: object, shown: Attribution, prefix: str) -> None:
        logged.append((shown.table.queries, shown.queries.ids, shown.table.weightings))

    monkeypatch.setattr(
        "guda_lightning.stages.writing.log_attribution", log
    )  # tests/report/test_wandb_files.py
    in_chunks_of(monkeypatch, 2)
    forget_scores(finished_run)
    attribute()
    assert logged == [(("sample-0", "sample-1"), ("sample-0", "sample-1"), ("elbo",))]
    saved = finished_run / "scores" / "queries" / "retrack-0"
    assert sorted(path.name for path in saved.glob("*.png")) == ["sample-0.png", "sample-1.png"]
    text = " ".join(report_run(finished_run).read_text().split())
    assert "The first 2 of 5 queries that were scored: means and counts of this page are theirs." in text
    assert '"queries":["sample-0","sample-1"]' in text


def test_only_the_chunk_of_a_changed_image_is_scored_again(
    finished_run: Path, table_path: Path, attribute: Attribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_chunks_of(monkeypatch, 2)
    forget_scores(finished_run)
    attribute()
    before = ScoreTable.load(table_path)
    repaint(finished_run, 3)
    out = attribute()
    assert evaluations(out) == 2 * PER_QUERY
    after = ScoreTable.load(table_path)
    hashes = zip(before.record.chunks, after.record.chunks, strict=True)
    assert [first == second for first, second in hashes] == [True, False, True]
    changed = (before.select(weighting="elbo").matrix() != after.select(weighting="elbo").matrix()).any(dim=1)
    assert changed.tolist() == [False, False, False, True, False]


def stopped_before(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a run, before a part is written."""
    save = ScoreTable.save

    def stop(table: ScoreTable, path: Path) -> None:
        if Path(path).name == part:
            raise KeyboardInterrupt
        save(table, path)

    monkeypatch.setattr(ScoreTable, "save", stop)


def test_parts_of_another_scoring_are_made_again_and_so_are_damaged_ones(
    finished_run: Path, table_path: Path, attribute: Attribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_chunks_of(monkeypatch, 2)
    forget_scores(finished_run)
    with monkeypatch.context() as patched:
        stopped_before("4.parquet", patched)
        attribute(code=130)
    folder = table_path.with_suffix(".parts")
    assert sorted(path.name for path in folder.iterdir()) == ["0.parquet", "2.parquet"]
    assert not table_path.exists()

    whole = (folder / "0.parquet").read_bytes()
    (folder / "0.parquet").write_bytes(whole[:100])
    with monkeypatch.context() as patched:
        stopped_before("4.parquet", patched)
        attribute(code=130)
    assert (folder / "0.parquet").read_bytes() == whole

    assert evaluations(attribute("--scoring.seed", "1")) == 5 * PER_QUERY
    assert {part.record.scoring.seed for part in ScoreTable.load_parts(table_path)} == {1}
    assert not folder.exists()


@pytest.fixture
def asked(tmp_path: Path) -> StreamedQueries:
    for name, image in zip("abc", gray_queries("a", "b", "c").images, strict=True):
        pixels = ((image[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return StreamedQueries(QueryFolder(tmp_path, (1, 8, 8)), GroupDataModule(Shades()), False)


def test_queries_that_change_while_they_are_scored_are_refused(
    asked: StreamedQueries, tmp_path: Path
) -> None:
    attributor = PixelSimilarity().fit(AttributionContext(tiny_full(), asked.data))
    chunk = ChunkedTable.of(attributor, asked, tmp_path / "parts").chunks[0]
    assert chunk.score(attributor, asked).queries == ("a", "b", "c")
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    expected = message(
        "the queries changed while they were scored",
        "other images, labels or prompts among queries 1 to 3",
        "what was there when guda attribute began",
        "run it again: what is scored already is kept",
    )
    with pytest.raises(QueryError, match=expected):
        chunk.score(attributor, asked)


def test_a_chunk_is_as_large_as_fits(asked: StreamedQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    attributor = PixelSimilarity().fit(AttributionContext(tiny_full(), asked.data))

    def rows(limit: int) -> list[int]:
        monkeypatch.setattr(chunks, "CHUNK_BYTES", limit)
        return [len(chunk.rows) for chunk in ChunkedTable.of(attributor, asked, Path("nowhere")).chunks]

    each = 4 * 64 + attributor.bytes_per_query()  # the pixels of an image in float32, and what is said
    assert rows(3 * each) == [3]
    assert rows(3 * each - 1) == [2, 1]
    assert rows(1) == [1, 1, 1]  # never none


def test_what_an_attributor_says_it_holds_are_its_squared_errors(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[SquaredErrors] = []
    full = open_full(finished_run / "full", DiffusionModule(tiny_unet(), DDPMScheduler()))
    attributor = CounterfactualAttributor(finished_run / "store", "retrack", Scoring(strata=3)).fit(
        AttributionContext(full)
    )
    monkeypatch.setattr(FittedELBOAttributor, "_keep", lambda self, errors: kept.append(errors))
    queries = load_queries(finished_run / "queries", (1, 8, 8))
    table = attributor.score(queries)
    held = sum(one.errors.nbytes + one.timesteps.nbytes for one in kept) + table.table.nbytes
    assert len(kept) == 11
    assert held / len(queries) <= attributor.bytes_per_query() <= 8 * held / len(queries)
