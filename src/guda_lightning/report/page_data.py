"""The numbers and pictures of a page, as its script reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from guda_lightning.errors import NumericsError, QueryError
from guda_lightning.report.charts import color_limit
from guda_lightning.report.pictures import data_uri
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.scores.summaries import group_summaries, margins
from guda_lightning.scores.views import View
from guda_lightning.types import Queries

MAX_THUMBNAILS = 1000  # about 6 MB of pictures
MAX_EXAMPLES = 3  # per group
QUERY_PIXELS, EXAMPLE_PIXELS = 208, 72  # longest side, twice what the style sheet shows

LABELS = {
    "elbo": "ELBO",
    "uniform": "Uniform",
    "middle": "Middle",
    "posterior": "Share",
    "density": "Density",
}
NOTES = {
    "elbo": "Weighting ELBO: differences of the evidence lower bound on the log-likelihood. "
    "Its weights sit on the smallest timesteps, so the scores say most about fine detail.",
    "uniform": "Weighting uniform: every timestep's squared noise error counts alike. The scores are less "
    "noisy and say more about the composition of the picture, but they are no log-likelihoods.",
    "middle": "Weighting middle: as uniform, without the first tenth of the timesteps, where pictures differ "
    "in fine detail, and without the last three tenths, where they are nearly pure noise.",
    "posterior": "Share: of the training patches that a patch of the noised query may stem from, weighted by "
    "how likely that is, the part that is the group's. A mean over patches. Shares of groups that do not "
    "overlap sum to at most one.",
    "density": "Density: minus the logarithm of the share that the other groups have; a mean over patches.",
}


def view_of(
    shown: View, missed: Mapping[str, frozenset[str]], verdicts: Mapping[str, Verdict]
) -> dict[str, Any]:
    """Scores of one method and weighting.

    Args:
        shown: The scores.
        missed: Queries that a placebo test found not attributable, by weighting.
        verdicts: On the counterfactuals behind these scores, by group.
    """
    scores, stderr, weighting = shown.scores, shown.stderr, shown.weighting
    unattributable = missed.get(weighting, frozenset())
    return {
        "method": shown.method,
        "weighting": weighting,
        "seeds": list(shown.seeds),
        "label": LABELS.get(weighting, weighting),
        "unit": shown.unit.name,
        "symbol": shown.unit.symbol,
        "covers": shown.unit.covers,
        "note": NOTES.get(weighting, f"Weighting {weighting}."),
        "limit": color_limit(scores),
        "scores": _rounded(scores, 8),
        "stderr": _rounded(stderr, 6),
        "margins": [lead if math.isfinite(lead) else None for lead in margins(scores, stderr).tolist()],
        "unattributable": [query in unattributable for query in shown.queries] if unattributable else [],
        "summary": [
            {"mean": one.mean, "stderr": one.stderr, "top": one.top} for one in group_summaries(shown)
        ],
        "verdicts": [_verdict(verdicts.get(group)) for group in shown.groups] if verdicts else [],
    }


def groups_of(table: ScoreTable, examples: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Names of groups, and a few training images of each, ``[images, channels, height, width]``."""
    return [
        {
            "name": group,
            "examples": [data_uri(image, EXAMPLE_PIXELS) for image in examples.get(group, ())[:MAX_EXAMPLES]],
        }
        for group in table.groups
    ]


def _verdict(verdict: Verdict | None) -> dict[str, str] | None:
    return None if verdict is None else {"grade": verdict.grade, "reason": verdict.reason}


def queries_of(table: ScoreTable, queries: Queries) -> list[dict[str, Any]]:
    """Names, pictures and, where there are some, prompts of the scored queries.

    Raises:
        QueryError: A scored query has no picture.
    """
    prompts = dict(zip(queries.ids, queries.prompts or (), strict=False))
    return [
        {"id": query, "image": picture, **({"prompt": prompts[query]} if query in prompts else {})}
        for query, picture in zip(table.queries, _query_pictures(queries, table), strict=True)
    ]


def curve_points(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points ``(step, own, other)`` of each group's curve, in the order of steps.

    Raises:
        NumericsError: One is not finite.
    """
    points: dict[str, list[tuple[int, float, float]]] = {}
    for row in curves:
        point = (int(row["step"]), float(row["own"]), float(row["other"]))
        if not all(map(math.isfinite, point)):
            raise NumericsError(
                f"the influence of group {row['group']!r} at step {point[0]} is not a number",
                found=f"{point[1]} on its own images, {point[2]} on others",
                expected="finite numbers",
                fix="unlearn that group again with a smaller learning rate",
            )
        points.setdefault(row["group"], []).append(point)
    return [{"group": group, "points": sorted(line)} for group, line in points.items()]


def positions(names: Sequence[str]) -> dict[str, int]:
    """The position of each name."""
    return {name: position for position, name in enumerate(names)}


def _rounded(matrix: Tensor, digits: int) -> list[list[float]]:
    return [[float(f"{value:.{digits}g}") for value in row] for row in matrix.tolist()]


def _query_pictures(queries: Queries, table: ScoreTable) -> list[str | None]:
    position = positions(queries.ids)
    missing = [query for query in table.queries if query not in position]
    if missing:
        raise QueryError(
            f"query {missing[0]!r} has scores but no picture",
            found=f"{len(missing)} of {len(table.queries)} scored queries without a picture",
            expected="a picture for every scored query",
            fix="report with the queries that were scored",
        )
    shown = [
        data_uri(queries.images[position[query]], QUERY_PIXELS) for query in table.queries[:MAX_THUMBNAILS]
    ]
    return [*shown, *[None] * (len(table.queries) - len(shown))]
