"""The numbers and pictures of a page, as its script reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from guda_lightning.errors import NumericsError, QueryError
from guda_lightning.report.charts import color_limit
from guda_lightning.report.noise_levels import NoiseLevels
from guda_lightning.report.pictures import data_uri
from guda_lightning.report.standing import Standing
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
    "cosine": "Cosine",
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
    "cosine": "Cosine: 1 where a query and a training image are the same but for their contrast, 0 where "
    "they have nothing in common. It says what is alike; the model is not asked.",
    "density": "Density: minus the logarithm of the share that the other groups have; a mean over patches.",
}


def view_of(
    name: str, shown: View, standing: Standing, missed: Mapping[str, frozenset[str]], table: ScoreTable
) -> dict[str, Any]:
    """Scores of one method and weighting, as the page, its downloads and ``--format json`` have them.

    Args:
        name: Of the table.
        shown: The scores.
        standing: What they are worth.
        missed: Queries that a placebo test found not attributable, by weighting that it tested.
        table: The table, for the verdicts on its counterfactuals.
    """
    scores, stderr, unit = shown.scores, shown.stderr, shown.unit
    unattributable, verdicts = missed.get(shown.weighting), table.verdicts
    return {
        "table": name,
        "method": shown.method,
        "weighting": shown.weighting,
        "seeds": list(shown.seeds),
        "standing": standing.to_json(),
        "unit": {
            "name": unit.name,
            "symbol": unit.symbol,
            "why": unit.why,
            "covers": unit.covers,
            "sized": unit.sized,
        },
        "scores": _rounded(scores, 8),
        "stderr": _rounded(stderr, 6),
        "margins": _leads(margins(scores, stderr)),
        "unattributable": [query in unattributable for query in shown.queries]
        if unattributable is not None
        else [],
        "summary": [
            {"mean": one.mean, "stderr": one.stderr, "top": one.top} for one in group_summaries(shown)
        ],
        "verdicts": [_verdict(verdicts.get(group)) for group in shown.groups] if verdicts else [],
    }


def drawn_of(shown: View, position: int, levels: NoiseLevels | None) -> dict[str, Any]:
    """What the page's script needs of a view besides its numbers.

    Args:
        shown: The scores.
        position: Of their table on the page.
        levels: At which noise levels they come about, if that is known.
    """
    return {
        "table": position,
        "label": LABELS.get(shown.weighting, shown.weighting),
        "note": NOTES.get(shown.weighting, f"Weighting {shown.weighting}."),
        "limit": color_limit(shown.scores),
        "levels": None if levels is None else levels.to_page(shown),
    }


def groups_of(table: ScoreTable, examples: Mapping[str, Tensor]) -> list[list[str]]:
    """A few training images of each group, ``[images, channels, height, width]``."""
    return [
        [data_uri(image, EXAMPLE_PIXELS) for image in examples.get(group, ())[:MAX_EXAMPLES]]
        for group in table.groups
    ]


def _verdict(verdict: Verdict | None) -> dict[str, str] | None:
    return None if verdict is None else {"grade": verdict.grade, "reason": verdict.reason}


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


def _leads(values: Tensor) -> list[float | None]:
    """Rounded as scores are: other processors add in another order, and a manifest is checked anywhere."""
    return [float(f"{one:.8g}") if math.isfinite(one) else None for one in values.tolist()]


def _rounded(matrix: Tensor, digits: int) -> list[list[float]]:
    return [[float(f"{value:.{digits}g}") for value in row] for row in matrix.tolist()]


def pictures_of(queries: Queries, table: ScoreTable) -> list[str | None]:
    """Pictures of the scored queries; none beyond the first `MAX_THUMBNAILS`.

    Raises:
        QueryError: A scored query has no picture.
    """
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
