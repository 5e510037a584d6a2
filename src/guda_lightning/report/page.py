"""The report: one HTML file that answers, with nothing but a browser, which groups made each sample."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from guda_lightning.data.images import from_unit
from guda_lightning.errors import ConfigError, MissingExtraError, NumericsError, QueryError
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_section import agreement_section
from guda_lightning.report.charts import color_limit
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.summary import summary, views
from guda_lightning.report.without_section import Without
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.summaries import UNDECIDED_BELOW, group_summaries, margins
from guda_lightning.storage.files import write_atomic
from guda_lightning.types import Queries
from guda_lightning.version import __version__

MAX_THUMBNAILS = 1000  # about 6 MB of pictures
MAX_EXAMPLES = 3  # per group
QUERY_PIXELS, WITHOUT_PIXELS, EXAMPLE_PIXELS = 208, 160, 72  # longest side, twice what the style sheet shows
PIXEL_ART = 64  # up to this size pictures are stored exactly and enlarged without blur

LABELS = {"elbo": "ELBO", "uniform": "Uniform", "middle": "Middle"}
UNITS = {
    "elbo": "Scores are in nats.",
    "uniform": "Scores are differences of the mean squared noise error.",
    "middle": "Scores are differences of the mean squared noise error at the middle timesteps.",
}
NOTES = {
    "elbo": "Weighting ELBO: differences of the evidence lower bound on the log-likelihood, in nats. "
    "Its weights sit on the smallest timesteps, so the scores say most about fine detail.",
    "uniform": "Weighting uniform: every timestep's squared noise error counts alike. The scores are less "
    "noisy and say more about the composition of the picture, but they are no log-likelihoods.",
    "middle": "Weighting middle: as uniform, without the first tenth of the timesteps, where pictures differ "
    "in fine detail, and without the last three tenths, where they are nearly pure noise.",
}


def write_page(
    folder: str | Path,
    *,
    queries: Queries,
    table: ScoreTable,
    examples: Mapping[str, Tensor],
    curves: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    title: str,
    out_of: int = 0,
    agreement: Evaluation | None = None,
    placebo: Placebo | None = None,
    without: Without | None = None,
) -> Path:
    """Write ``index.html``: one file that loads nothing from the network.

    Args:
        folder: Where to write; made if missing. An existing page is replaced.
        queries: Pictures of at least the table's queries. The first `MAX_THUMBNAILS` are shown.
        table: Scores. If it holds several weightings, methods or seeds, the page lets one switch between
            them; each must score the same queries under the same groups.
        examples: A few training images per group, ``[images, channels, height, width]`` float32 in [-1, 1];
            the first `MAX_EXAMPLES` are shown. May lack groups.
        curves: Rows ``group``, ``step``, ``own``, ``other``: mean scores of the group's own and of all other
            groups' training images after so many steps of unlearning it. May be empty.
        facts: What the reader should know about the run: models, hashes, seeds, costs.
        title: Of the page.
        out_of: Number of queries that were scored, where those of the table are only the first of them.
        agreement: How well methods agree with the oracle, if that was evaluated.
        placebo: Which queries random groups explain as well, if that was tested.
        without: What counterfactuals draw from the noise of the queries, if that was drawn.

    Returns:
        The path of the page.

    Raises:
        QueryError: A scored query has no picture.
        NumericsError: A curve is not finite.
        ConfigError: The table is empty, or its weightings, methods or seeds do not score the same pairs.
        MissingExtraError: jinja2 is not installed, or, for the agreement, altair or vl-convert.
    """
    if not len(table):
        raise ConfigError(
            "there is nothing to report",
            found="a score table without rows",
            expected="at least one query and one group",
            fix="score queries with guda attribute",
        )
    pictures = _query_pictures(queries, table)
    prompts = {
        query: {"prompt": text} for query, text in zip(queries.ids, queries.prompts or (), strict=False)
    }
    points = _curve_points(curves)
    data = {
        "undecidedBelow": UNDECIDED_BELOW,
        "pixelated": max(queries.images.shape[-2:]) <= PIXEL_ART,
        "groups": [
            {
                "name": group,
                "examples": [
                    _data_uri(image, EXAMPLE_PIXELS) for image in examples.get(group, ())[:MAX_EXAMPLES]
                ],
            }
            for group in table.groups
        ],
        "queries": [
            {"id": query, "image": picture, **prompts.get(query, {})}
            for query, picture in zip(table.queries, pictures, strict=True)
        ],
        "views": [_view(table, placebo, *key) for key in views(table)],
        "curves": points,
    }
    page = _template().render(
        title=title,
        shown=len(table.queries),
        out_of=out_of,
        version=__version__,
        facts=facts,
        curves=bool(points),
        agreement=None if agreement is None else _agreement(agreement),
        placebo=[] if placebo is None else placebo.lines,
        without=None if without is None else _without(without, table),
        undecided_below=f"{UNDECIDED_BELOW:g}",
        thumbnails=MAX_THUMBNAILS,
        hidden_thumbnails=max(0, len(table.queries) - MAX_THUMBNAILS),
        summary=summary(table),
        **_assets(data),
    )
    path = Path(folder) / "index.html"
    write_atomic(path, page)
    return path


def _view(
    table: ScoreTable, placebo: Placebo | None, method: str, weighting: str, seed: int
) -> dict[str, Any]:
    part = table.select(method, weighting, seed)
    if set(part.queries) != set(table.queries) or set(part.groups) != set(table.groups):
        raise ConfigError(
            "the parts of a report must score the same queries under the same groups",
            found=f"{len(part.queries)} queries and {len(part.groups)} groups for method {method}, "
            f"weighting {weighting}, seed {seed}",
            expected=f"{len(table.queries)} queries and {len(table.groups)} groups",
            fix="score all of them with guda attribute, or report this part by itself",
        )
    # A part may list its rows in another order than the whole table.
    row, column = _positions(part.queries), _positions(part.groups)
    rows, columns = [row[query] for query in table.queries], [column[group] for group in table.groups]
    scores, stderr = part.matrix()[rows][:, columns], part.stderr_matrix()[rows][:, columns]
    summaries = {one.group: one for one in group_summaries(part)}
    missed = frozenset() if placebo is None else placebo.missed.get(weighting, frozenset())
    return {
        "method": method,
        "weighting": weighting,
        "seed": seed,
        "label": LABELS.get(weighting, weighting),
        "unit": UNITS.get(weighting, ""),
        "note": NOTES.get(weighting, f"Weighting {weighting}."),
        "limit": color_limit(scores),
        "scores": _rounded(scores, 8),
        "stderr": _rounded(stderr, 6),
        "margins": [lead if math.isfinite(lead) else None for lead in margins(scores, stderr).tolist()],
        "unattributable": [query in missed for query in table.queries] if missed else [],
        "summary": [
            {"mean": summaries[group].mean, "stderr": summaries[group].stderr, "top": summaries[group].top}
            for group in table.groups
        ],
    }


def _agreement(evaluation: Evaluation) -> dict[str, Any]:
    """The section's text, and its charts as pictures that the page holds."""
    section = agreement_section(evaluation)
    for part in section["weightings"]:
        part["chart"] = f"data:image/svg+xml;base64,{base64.b64encode(part['chart'].encode()).decode()}"
    return section


def _without(without: Without, table: ScoreTable) -> dict[str, Any]:
    """The section's text and pictures, and whose scores say which picture to outline."""
    query, group = (_positions(table.queries), _positions(table.groups)) if without.scored else ({}, {})
    return {
        "caption": without.caption,
        "scored": without.scored,
        "groups": [(name, group.get(name)) for name in without.groups],
        "rows": [
            {
                "name": name,
                "query": query.get(name),
                "full": _data_uri(without.full.images[row], WITHOUT_PIXELS),
                "pictures": [_data_uri(images[row], WITHOUT_PIXELS) for images in without.groups.values()],
            }
            for row, name in enumerate(without.full.ids)
        ],
    }


def _positions(names: Sequence[str]) -> dict[str, int]:
    return {name: position for position, name in enumerate(names)}


def _rounded(matrix: Tensor, digits: int) -> list[list[float]]:
    return [[float(f"{value:.{digits}g}") for value in row] for row in matrix.tolist()]


def _query_pictures(queries: Queries, table: ScoreTable) -> list[str | None]:
    position = _positions(queries.ids)
    missing = [query for query in table.queries if query not in position]
    if missing:
        raise QueryError(
            f"query {missing[0]!r} has scores but no picture",
            found=f"{len(missing)} of {len(table.queries)} scored queries without a picture",
            expected="a picture for every scored query",
            fix="report with the queries that were scored",
        )
    shown = [
        _data_uri(queries.images[position[query]], QUERY_PIXELS) for query in table.queries[:MAX_THUMBNAILS]
    ]
    return [*shown, *[None] * (len(table.queries) - len(shown))]


def _curve_points(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def _data_uri(image: Tensor, longest: int) -> str:
    """Encode ``[channels, height, width]`` in [-1, 1], shrunk to at most ``longest`` pixels a side."""
    from PIL import Image

    pixels = from_unit(image).numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    exact = max(picture.size) <= PIXEL_ART
    if max(picture.size) > longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if exact:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "WEBP", quality=82, method=4)
    kind = "png" if exact else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _template() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingExtraError("jinja2", "report") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_file("page.html.j2"))


def _assets(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that go into the page as they are, and the hashes by which the browser lets them in."""
    from markupsafe import Markup

    style, script = _file("page.css"), _file("page.js")
    # Inside a script element only "<" could end the data early.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    return {
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(text),
        "style_hash": _csp_hash(style),
        "script_hash": _csp_hash(script),
    }


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _file(name: str) -> str:
    return resources.files("guda_lightning.report").joinpath(name).read_text("utf-8")
