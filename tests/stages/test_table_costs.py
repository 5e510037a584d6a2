"""What score tables cost: evaluations that are known, sums over attempts, blanks and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from guda_lightning.attribution import AttributionContext, Attributor, FittedAttributor, chunks
from guda_lightning.attribution.samples import training_samples
from guda_lightning.attribution.scoring import squared_errors
from guda_lightning.cli.main import main
from guda_lightning.data import query_hash
from guda_lightning.errors import StoreError
from guda_lightning.report.yardstick_text import cells
from guda_lightning.scores import ScoreRecord, ScoreTable, Scoring
from guda_lightning.scores.kinds import Custom
from guda_lightning.stages.costs import Meter
from guda_lightning.storage.costs import Preparation, Spent, TableCost, made_for, size_of
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Queries
from toys import message

CONF = Path(__file__).parents[1] / "conf"
PER_QUERY = 10 * 11  # 5 strata x 2 draws, ten groups and the full model
QUERIES, INTERRUPTED = 5, 130
FEW, OF_FEW = ("--groups", "3,7"), 10 * 3  # two groups and the full model
Attribute = Callable[..., RunFolder]


@pytest.fixture
def attribute(finished_run: Path) -> Attribute:
    """Score the five queries of a finished run again."""
    files = [part for name in ("digits", "attribute") for part in ("-c", str(CONF / f"{name}.yaml"))]

    def run(*arguments: str, code: int = 0) -> RunFolder:
        assert main(["attribute", *files, "--run", str(finished_run), *arguments]) == code
        return RunFolder(finished_run)

    return run


def cost(run: RunFolder, table: str = "retrack-0") -> TableCost:
    found = TableCost.load(run.cost_of(run.scores / f"{table}.parquet"))
    assert found is not None
    return found


def forget_scores(run: RunFolder) -> None:
    for path in (*run.scores.rglob("*.parquet"), *run.errors.glob("*"), *run.scores.glob("costs/*")):
        path.unlink()


def test_counterfactuals_cost_what_their_records_say_and_scoring_what_was_evaluated(
    attribute: Attribute, finished_run: Path
) -> None:
    forget_scores(RunFolder(finished_run))
    run = attribute()
    found = cost(run)
    records = [json.loads(path.read_text()) for path in run.store.glob("retrack-*/record.json")]
    assert len(records) == 10
    assert found.preparation is not None
    assert found.preparation.evaluations == sum(record["network_evaluations"] for record in records)
    assert found.preparation.seconds == pytest.approx(sum(record["seconds"] for record in records))
    assert found.preparation.core_seconds == pytest.approx(sum(record["core_seconds"] for record in records))
    assert found.scoring.evaluations == QUERIES * PER_QUERY
    assert found.disk == sum(
        path.stat().st_size for path in run.store.glob("retrack-*/*") if path.name[0] != "."
    )
    assert (found.queries, found.scores) == (QUERIES, ScoreTable.load(run.table("retrack", 0)).record.hash)
    assert found.memory is not None and found.memory > 50 * 2**20  # torch alone takes more


def test_an_interrupted_scoring_that_goes_on_adds_up(
    attribute: Attribute, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_scores(RunFolder(finished_run))
    monkeypatch.setattr(chunks, "CHUNK_QUERIES", 2)
    score, rows = chunks.Chunk.score, []

    def interrupted(chunk: chunks.Chunk, *rest: object) -> ScoreTable:
        rows.append(chunk.rows)
        if len(rows) == 2:
            raise KeyboardInterrupt
        return score(chunk, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(chunks.Chunk, "score", interrupted)
        first = cost(attribute(*FEW, code=INTERRUPTED))
    assert first.scoring.evaluations == 2 * OF_FEW
    whole = cost(attribute(*FEW))
    assert whole.scoring.evaluations == QUERIES * OF_FEW
    assert whole.scoring.seconds > first.scoring.seconds
    assert whole.preparation == first.preparation


def test_costs_of_other_scores_are_replaced_and_complete_ones_stay(
    attribute: Attribute, finished_run: Path
) -> None:
    run = RunFolder(finished_run)
    forget_scores(run)
    first = cost(attribute(*FEW))
    assert cost(attribute(*FEW)) == first  # complete: nothing was spent
    other = cost(attribute(*FEW, "--scoring.draws", "3"))
    assert other.scoring.evaluations == QUERIES * OF_FEW * 3 // 2
    assert other.scores != first.scores


# --- preparation


@dataclass(frozen=True)
class Prepared(Attributor):
    """Evaluates 20 training samples on two draws, in halves, and keeps a file of each."""

    def fit(self, context: AttributionContext) -> FittedAttributor:
        assert context.data is not None
        return FittedPrepared(groups=context.data.grouping.names, method="prepared", context=context)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedPrepared(FittedAttributor):
    context: AttributionContext

    @property
    def _parts(self) -> list[Path]:
        assert self.context.features is not None
        return [self.context.features / "prepared" / str(part) for part in range(2)]

    def kept(self) -> tuple[Path, ...]:
        return (self._parts[0].parent,)

    def preparation(self) -> int:
        return sum(20 for part in self._parts if not part.is_file())

    def prepare(self) -> None:
        assert self.context.data is not None
        for number, part in enumerate(self._parts):
            if part.is_file():
                continue
            samples = training_samples(self.context.data, range(10 * number, 10 * number + 10), False)
            execution, scoring = self.context.execution, Scoring(strata=1, draws=2)
            found, _ = squared_errors(
                self.context.full.model, samples, scoring, on_batch=execution.on_evaluations
            )
            part.parent.mkdir(exist_ok=True, parents=True)
            part.write_bytes(found.numpy().tobytes())

    def score(self, queries: Queries) -> ScoreTable:
        scores = torch.arange(float(len(self.groups))).expand(len(queries), -1).double()
        names = {"query_ids": queries.ids, "groups": self.groups}
        told = {"method": self.method, "weighting": "own", "record": self.record(queries)}
        return ScoreTable.from_matrix(scores, 0 * scores, n_draws=1, seed=0, **names, **told)  # type: ignore[arg-type]

    def record(self, queries: Queries) -> ScoreRecord:
        return ScoreRecord(Custom(entries={"prepares": True}), query_hash=query_hash(queries))


OWN = ("--attributor", f"{__name__}.Prepared")


def test_preparation_is_kept_for_other_queries_and_adds_up_where_it_was_interrupted(
    attribute: Attribute, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def interrupted(path: Path, data: bytes) -> int:
        if path.parent.name == "prepared" and path.name == "1":
            raise KeyboardInterrupt
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", interrupted)
        attribute(*OWN, code=INTERRUPTED)
    run = attribute(*OWN)
    found = cost(run, "prepared-0")
    assert found.preparation is not None
    assert found.preparation.evaluations == 20 + 20 + 20  # of the second half twice
    assert (found.scoring.evaluations, found.disk) == (0, 2 * 20 * 8)

    query = sorted(run.queries.glob("*.png"))[0]
    attribute(*OWN, "--queries", str(query))
    again = cost(run, f"prepared-0-{query.stem}")
    assert (again.preparation, again.disk, again.queries) == (found.preparation, found.disk, 1)


def test_what_preparation_cost_is_blank_where_nobody_has_kept_it(
    attribute: Attribute, finished_run: Path
) -> None:
    run = attribute(*OWN)
    for path in (
        *run.features.glob("costs/*"),
        run.table("prepared", 0),
        run.cost_of(run.table("prepared", 0)),
    ):
        path.unlink()
    found = cost(attribute(*OWN), "prepared-0")
    assert (found.preparation, found.evaluations) == (None, None)
    prepared, _, evaluated, memory, disk = cells(found)
    assert (prepared, evaluated, memory, disk) == ("", "", "", "0.00031 MiB")
    assert cells(None) == [""] * 5


def test_it_is_blank_where_a_process_that_kept_some_of_it_was_killed(
    attribute: Attribute, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def killed(path: Path, data: bytes) -> int:
        if path.parent.name == "prepared" and path.name == "1":
            raise KeyboardInterrupt
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", killed)
        patched.setattr(Preparation, "save", lambda *_: None)  # no time to write what was spent
        attribute(*OWN, code=INTERRUPTED)
    run = attribute(*OWN)
    assert cost(run, "prepared-0").preparation is None

    for path in (run.features / "prepared").iterdir():  # made anew as a whole, it is known again
        path.unlink()
    run.table("prepared", 0).unlink()
    found = cost(attribute(*OWN), "prepared-0")
    assert found.preparation is not None and found.preparation.evaluations == 20 + 20


# --- sums and files


def test_sums_add_all_but_memory_and_do_not_invent_core_seconds() -> None:
    total = Spent(1.0, 2.0, 3, 100, None) + Spent(10.0, 20.0, 30, 70, 5)
    assert total == Spent(11.0, 22.0, 33, 100, 5)
    assert (total + Spent(1.0, None, 1)).core_seconds is None
    assert Spent() + total == total


def test_a_meter_counts_every_process_and_gives_what_was_spent_where_it_is_interrupted() -> None:
    meter, kept = Meter(torch.device("cpu"), processes=2), list[Spent]()
    meter.count(5)
    with pytest.raises(KeyboardInterrupt), meter.measuring(kept.append):
        meter.count(7)
        raise KeyboardInterrupt
    (found,) = kept
    assert (found.evaluations, found.gpu_memory) == (14, None)


def test_a_peak_of_earlier_work_does_not_count() -> None:
    meter, kept = Meter(torch.device("cpu")), list[Spent]()
    for size in (64, 1):
        with meter.measuring(kept.append):
            torch.ones(size * 2**20 // 4).sum()
    large, small = (spent.memory or 0 for spent in kept)
    assert large - small > 32 * 2**20


def test_files_come_back_and_others_are_refused(tmp_path: Path) -> None:
    table = TableCost("hash", 3, None, Spent(1.5, None, 7, 8, 9), 0)
    table.save(tmp_path / "table.json")
    assert TableCost.load(tmp_path / "table.json") == table
    prepared = Preparation(("a", "b"), 4, Spent(2.0))
    prepared.save(tmp_path / "prepared.json")
    assert Preparation.load(tmp_path / "prepared.json") == prepared
    others = replace(prepared, files=("a",)), replace(prepared, size=5)
    assert prepared.name == replace(prepared, spent=Spent()).name not in {one.name for one in others}
    assert TableCost.load(tmp_path / "missing.json") is None

    text = message(
        f"{tmp_path / 'prepared.json'} does not say what scores cost",
        "format 1, entries files, size, spent",
        "format 1, entries disk, preparation, queries, scores, scoring",
        "use the version of guda-lightning that wrote it, or remove it: the costs are blank then",
    )
    with pytest.raises(StoreError, match=text):
        TableCost.load(tmp_path / "prepared.json")


def test_weights_cost_what_their_records_say(tmp_path: Path) -> None:
    for name, cores in (("a", {"core_seconds": 2.0}), ("b", {})):
        (tmp_path / name).mkdir()
        record = {"seconds": 1.0, "network_evaluations": 10, "format": 1, **cores}
        (tmp_path / name / "record.json").write_text(json.dumps({**record, "sha256": sha256_json(record)}))
    assert made_for([tmp_path / "a"]) == Spent(1.0, 2.0, 10)
    assert made_for([tmp_path / "a", tmp_path / "b"]) == Spent(2.0, None, 20)
    file = tmp_path / "a" / "record.json"
    assert size_of([tmp_path / "a", tmp_path / "none", file]) == 2 * file.stat().st_size
