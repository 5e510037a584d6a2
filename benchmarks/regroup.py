"""A classifier that gets other groups in seconds, beside one that is trained anew for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks import groupings, oracles
from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import write_table
from guda_lightning.data import Digits, ImageTable, Source
from guda_lightning.evaluation.bootstrap import interval, resampled_means
from guda_lightning.evaluation.line import line_of, second_moments
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.posteriors.trained import TrainedClassifier
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Weighting

TRAINED, KIND = "classifier", "recalibrated"
SCORED = ("--scoring.strata", "25")  # two draws each
SHOWN: tuple[Weighting, ...] = ("elbo", "uniform")
NOTES = (
    "Against the scores of a classifier that is trained anew, with seed 0: how often the top group is the "
    "same, and R² and slope of all scores within queries, 95 % intervals over queries. Explained: share of "
    "the entropy of the groups' frequencies on held-out samples; in brackets that of the classifier it was "
    "made from. Seconds to make the posterior. Scored at 25 strata of two draws."
)


@dataclass(frozen=True)
class Without(Source):
    """The handwritten digits without one of them.

    Args:
        digit: Which one.
    """

    digit: int

    def load(self) -> ImageTable:
        """List the others; their ids stay."""
        table = Digits().load()
        labels = table.labels or ()
        rows = [row for row, label in enumerate(labels) if label != str(self.digit)]
        return ImageTable(
            ids=tuple(table.ids[row] for row in rows),
            read=lambda index: table.read(rows[index]),
            labels=tuple(labels[row] for row in rows),
            label_names=tuple(name for name in table.label_names if name != str(self.digit)),
        )


def run(asked: Asked) -> None:
    """Add a digit, remove one, and split one, and then all, in two."""
    bench = oracles.digits(asked)
    write_table(asked.docs, "regroup", asked.command("regroup"), rows(bench, asked), NOTES)


def rows(bench: Bench, asked: Asked) -> list[dict[str, object]]:
    """Two rows a case: recalibrated, and trained with seed 1, against trained with seed 0."""
    last = asked.size.classes - 1
    folder = asked.runs / "regroup"
    without = (
        *("--data.init_args.source.class_path", f"{__name__}.Without"),
        *("--data.init_args.source.init_args.digit", str(last)),
        *("--data.init_args.groups", groupings.without(folder / "without.csv", last, asked.size.classes)),
    )
    cases = {
        f"{last} added": (without, ()),
        f"{last} removed": ((), without),
        "3 in two": ((), _split(folder / "one.csv", asked, [3])),
        "each in two": ((), _split(folder / "all.csv", asked, range(asked.size.classes))),
    }
    found = []
    for case, (before, after) in list(cases.items())[: bench.size.kinds]:
        slug = case.replace(" ", "-")
        base = bench.beside(folder / f"{slug}-before", *before)
        base.stage("guide", "--posterior", TRAINED, label="guide")
        found += _case(case, bench, base, bench.beside(folder / slug, *after))
    return found


def _case(case: str, bench: Bench, base: Bench, one: Bench) -> list[dict[str, object]]:
    for seed in (0, 1):
        one.stage("guide", "--posterior", TRAINED, "--seed", str(seed), label=f"guide {seed}")
    made = {"trained anew, seed 1": (TRAINED, 1, "guide 1")}
    try:
        one.stage("guide", "--posterior", KIND, "--base", str(base.run.root), label="recalibrate")
        made["recalibrated"] = (KIND, 0, "recalibrate")
    except SystemExit:  # refused: there is nothing to compare, which is a result
        pass
    anew, rows = _scores(bench, one, TRAINED, 0), []
    for name, (kind, seed, label) in made.items():
        scores = _scores(bench, one, kind, seed)
        row: dict[str, object] = {
            "groups": case,
            "classifier": name,
            unit(): f"{one.seconds(label):.1f}",
            "explained": _explained(one, kind, seed, base),
        }
        for weighting in SHOWN:
            row |= _agreement(anew[weighting], scores[weighting], weighting)
        rows.append(row)
    if len(made) == 1:
        rows.append({name: "" for name in rows[0]} | {"groups": case, "classifier": "recalibrated: refused"})
    return rows


def _scores(bench: Bench, one: Bench, kind: str, seed: int) -> dict[str, Tensor]:
    queries = bench.run.queries
    scored = ("-c", "attribute/elbo.yaml", "--operator", kind, "--seed", str(seed), *SCORED)
    one.stage("attribute", *scored, "--queries", str(queries), label=f"attribute {kind} {seed}")
    table = ScoreTable.load(one.run.table(kind, seed, queries.name))
    return {weighting: table.select(weighting=weighting).matrix() for weighting in SHOWN}


def _explained(one: Bench, kind: str, seed: int, base: Bench) -> str:
    share = _share(one, kind, seed)
    return f"{share:.2f}" if kind == TRAINED else f"{share:.2f} ({_share(base, TRAINED, 0):.2f})"


def _share(bench: Bench, kind: str, seed: int) -> float:
    store = PosteriorStore(bench.run.store)
    return TrainedClassifier.explained_by(store, store.find(kind, seed=seed))


def _agreement(anew: Tensor, scores: Tensor, weighting: str) -> dict[str, object]:
    """How scores agree with those of a classifier that was trained anew, both ``[queries, groups]``."""
    same = (anew.argmax(dim=1) == scores.argmax(dim=1)).double()
    centred = [each - each.mean(dim=1, keepdim=True) for each in (anew, scores)]
    moments = second_moments(*centred)
    whole = line_of(moments.mean(dim=0))
    drawn = line_of(resampled_means(moments[:, None], 2000, seed=0))
    means = resampled_means(same[:, None], 2000, seed=0)
    found = {"top-1": (float(same.mean()), means)}
    found |= {"R²": (float(whole.r2), drawn.r2), "slope": (float(whole.slope), drawn.slope)}
    row: dict[str, object] = {}
    for name, (value, resampled) in found.items():
        low, high = interval(resampled, 0.95)
        row[f"{name} {weighting}"] = f"{value:.2f} [{float(low):.2f}, {float(high):.2f}]"
    return row


def _split(path: Path, asked: Asked, digits: Sequence[int]) -> tuple[str, str]:
    """Options of groups of which some digits are in two, at random."""
    return "--data.init_args.groups", groupings.split_some(path, digits, asked.size.classes)
