"""What attribution costs as the number of groups grows."""

from __future__ import annotations

from benchmarks import figures, groupings, oracles
from benchmarks.agree import score
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.counterfactuals import RETRAIN
from guda_lightning.scores import Scoring

MEASURED = 3  # groups that retrack unlearns; its cost is that of each group, multiplied


def run(asked: Asked) -> None:
    """Guidance for random subgroups of the digits, beside unlearning and retraining each of them."""
    whole = oracles.digits(asked)
    per_query = float(Scoring().strata * Scoring().draws * asked.size.queries)
    rows: list[dict[str, object]] = []
    for number in asked.size.groups:
        path = asked.runs / f"groups_{number}.csv"
        bench = oracles.regrouped(asked.runs / f"groups_{number}", groupings.hashed(path, number), whole)
        names = groupings.names(path)[:MEASURED]
        score(bench, ("guidance",))
        score(bench, ("retrack",), "--groups", ",".join(names))
        spent = {
            "retraining": _one_by_one(whole, "retrain 0", "attribute retrain 0", RETRAIN, number),
            "retrack": _one_by_one(bench, "make retrack", "attribute retrack", "retrack", number),
            "guidance": (bench.seconds("make guidance", "attribute guidance"), per_query),
        }
        rows += [
            {"groups": number, "method": method, "core seconds": seconds, "network evaluations": evaluations}
            for method, (seconds, evaluations) in spent.items()
        ]
    subtitle = f"digits, {asked.size.queries} queries × {Scoring().strata * Scoring().draws} evaluations"
    figures.growth(asked.docs, rows, "groups", "Cost as the number of groups grows", subtitle)
    notes = (
        f"Training and scoring. Guidance is measured as it is; retrack on {MEASURED} groups and retraining "
        "on the ten classes, multiplied. Evaluations are those of the diffusion network; guidance's "
        "classifier counts by its seconds alone."
    )
    shown = [{name: _readable(value) for name, value in row.items()} for row in rows]
    write_table(asked.docs, "groups", asked.command("groups"), shown, notes)


def _one_by_one(bench: Bench, made: str, scored: str, operator: str, number: int) -> tuple[float, float]:
    """Seconds and evaluations of so many groups, each with a model of its own, from those of a few."""
    spent, count = bench.evaluations(operator, seed=0)
    per_model = Scoring().strata * Scoring().draws * bench.size.queries
    seconds = bench.seconds(made) / count * number + bench.seconds(scored) / (count + 1) * (number + 1)
    return seconds, spent / count * number + per_model * (number + 1)


def _readable(value: object) -> object:
    return f"{value:,.0f}" if isinstance(value, float) else value
