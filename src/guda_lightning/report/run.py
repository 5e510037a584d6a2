"""The page of a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from guda_lightning.counterfactuals import RETRAIN, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import load_queries, query_hash
from guda_lightning.errors import StoreError
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.posteriors import GUIDANCE, ClassifierStore
from guda_lightning.report.page import write_page
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.without_section import Without
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder

_WORK = {RETRAIN: "Retraining", GUIDANCE: "Classifier"}  # that went into a method, else unlearning


def report_run(root: Path, scores: Path | None = None) -> Path:
    """Write RUN/report/index.html from what the other stages left in a run folder.

    Args:
        root: The run folder.
        scores: The score table to show; the newest one of a method, or else of the oracle, if left out. Of
            one that was scored in chunks of queries, the first chunk is shown.

    Returns:
        The page.

    Raises:
        StoreError: There is no such folder or table, or something that the table was made from is gone.
    """
    run = RunFolder(root)
    path = scores or _newest(run)
    chunks = ScoreTable.load_record(path).get("chunks", [])
    table = next(ScoreTable.load_parts(path)) if chunks else ScoreTable.load(path)
    shown = chunks[0] if chunks else table.record
    if not run.examples.is_file():
        raise _lost(run, path, f"no file {run.examples}", "a few training images of every group")
    examples = load_file(run.examples)
    channels, height, width = next(iter(examples.values())).shape[1:]
    queries = load_queries(run.queries_of(path), (channels, height, width))
    if query_hash(queries) != shown["query_hash"]:
        raise _lost(run, path, f"other images in {run.queries_of(path)}", "the queries of the table")
    made = _made_with(table)
    stored = [*CounterfactualStore(run.store).records(), *ClassifierStore(run.store).records()]
    records = [record for record in stored if record.weights_hash in made]
    if len(records) < len(made):
        found = f"{len(records)} of its {len(made)} counterfactuals or classifiers in {run.store}"
        raise _lost(run, path, found, "all of them")
    facts = {"Run folder": run.name, "Grouping": str(table.record["grouping_hash"])[:16]}
    if records:
        method, steps = table.methods[0], records[0].steps
        facts |= {
            "Full model": str(table.record["full_hash"])[:16],
            "Method": f"{method}, {steps} steps {'in all' if method == GUIDANCE else 'a group'}",
            _WORK.get(method, "Unlearning"): (
                f"{sum(r.seconds for r in records):.0f} s, "
                f"{sum(r.network_evaluations for r in records):,} network evaluations"
            ),
            "Timesteps": _timesteps(table),
            "Standard error": str(table.record["stderr"]),
            "Noise seed": str(table.record["seed"]),
        }
    else:
        facts["Method"] = table.methods[0]
    full = FullRecord.of_run(run.full)
    # Not of a full model that was named with --full.
    if full is not None and full.full_hash == table.record.get("full_hash"):
        facts["Training"] = f"{full.steps:,} steps, {full.seconds:.0f} s"
    placebo = _placebo(run, path, table)
    if placebo is None and ScoreTable.exists(run.placebo / path.name):
        facts["Placebo groups"] = "scored again since"
    without = Without.of(run, table, (channels, height, width))
    if without is None and Without.exists(run):
        facts["With and without"] = "drawn, but not from the full model and the noise of the queries"
    return write_page(
        run.report,
        queries=queries,
        table=table,
        examples=examples,
        curves=[row for r in records if isinstance(r, CounterfactualRecord) for row in r.history],
        facts=facts,
        title=run.name,
        out_of=sum(chunk["queries"] for chunk in chunks),
        agreement=_evaluation(run, table),
        placebo=placebo,
        without=without,
    )


def _made_with(table: ScoreTable) -> set[str]:
    """Hashes of the weights in the store that a table was made with; a similarity has none."""
    if "classifier" in table.record:
        return {table.record["classifier"]}
    return set(table.record.get("counterfactuals", {}).values())


def _placebo(run: RunFolder, path: Path, table: ScoreTable) -> Placebo | None:
    """What ``guda placebo`` found about a table, unless the table was scored again since."""
    if not ScoreTable.exists(run.placebo / path.name):
        return None
    random = ScoreTable.load(run.placebo / path.name)
    if random.record["of"] != sha256_json(table.record):
        return None
    return Placebo.of(ScoreTable.load(path), random)  # of all queries, whichever the page shows


def _evaluation(run: RunFolder, table: ScoreTable) -> Evaluation | None:
    """What ``guda evaluate`` found about a table's queries, with a note where tables changed since."""
    if not Evaluation.exists(run.evaluation):
        return None
    found = Evaluation.load(run.evaluation)
    if found.record.get("query_hash") != table.record["query_hash"]:
        return None
    paths = {name: run.scores / f"{name}.parquet" for name in found.tables}
    changed = [
        name
        for name, digest in found.tables.items()
        if paths[name].is_file() and sha256_json(ScoreTable.load_record(paths[name])) != digest
    ]
    note = [f"Scored again since: {', '.join(changed)}. Run guda evaluate again."] if changed else []
    return replace(found, record={**found.record, "notes": [*note, *found.record["notes"]]})


def _lost(run: RunFolder, table: Path, found: str, expected: str) -> StoreError:
    stage = {RETRAIN: "retrain", GUIDANCE: "guide"}.get(table.stem.partition("-")[0], "unlearn")
    return StoreError(
        f"{run.root} no longer holds what {table} was made from",
        found=found,
        expected=expected,
        fix=f"restore it, or remove {table} and run `guda {stage}` and `guda attribute` again",
    )


def _timesteps(table: ScoreTable) -> str:
    plan = table.record["plan"]
    low, high = plan["range"]
    kind = "a fixed grid (biased)" if plan["biased"] else "strata (unbiased)"
    return f"{len(plan['starts'])} {kind} x {plan['draws']} draws of {low} <= t <= {high}"


def _newest(run: RunFolder) -> Path:
    tables = sorted(run.scores.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    of_methods = [path for path in tables if not path.stem.startswith(f"{RETRAIN}-")]
    if not tables:
        raise StoreError(
            f"{run.root} has no score table",
            found="no such folder" if not run.root.is_dir() else f"no .parquet file in {run.scores}",
            expected="the run folder of a finished `guda attribute`",
            fix="run `guda attribute` with the configuration of this run first, or correct the path",
        )
    return (of_methods or tables)[-1]
