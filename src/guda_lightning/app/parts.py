"""The parts of an answer, as the values that their templates show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from guda_lightning.data.images import to_unit
from guda_lightning.data.nearest import Nearest
from guda_lightning.report.map_pictures import maps_of
from guda_lightning.report.pictures import data_uri
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.scores.summaries import UNDECIDED_BELOW, margins
from guda_lightning.scores.views import View

MAX_GROUPS = 12  # that are shown; the number of the others is said
HALF = 1.96  # standard errors on either side of a score, as on the report's page
PIXELS = 320  # longest side, twice what the style sheet shows


class Part(NamedTuple):
    """A part of an answer.

    Attributes:
        name: Which: ``groups``, ``map``, ``without`` or ``nearest``.
        values: What its template shows.
    """

    name: str
    values: Mapping[str, Any]


def groups_part(view: View, level: str, image: Tensor) -> Part:
    """The groups of one query, the highest score first, each with a bar and its ±.

    Args:
        view: Scores of one query.
        level: What such scores are worth here, as ``Worth`` says it.
        image: The picture as it was scored, ``[channels, height, width]`` in [-1, 1].
    """
    scores, errors = view.scores[0].tolist(), view.stderr[0].tolist()
    order = sorted(range(len(scores)), key=lambda group: -scores[group])
    first = view.groups[order[0]]
    shown = order[:MAX_GROUPS]
    low = min(0.0, *(scores[group] - HALF * errors[group] for group in shown))
    high = max(0.0, *(scores[group] + HALF * errors[group] for group in shown))
    span = (high - low) or 1.0

    def bar(group: int) -> dict[str, Any]:
        score, error = scores[group], errors[group]
        ends = [100 * (value - low) / span for value in (min(score, 0), max(score, 0))]
        return {
            "name": view.groups[group],
            "number": view.unit.number(score, error),
            "positive": score > 0,
            "start": ends[0],
            "width": ends[1] - ends[0],
            "low": 100 * (score - HALF * error - low) / span,
            "error": 200 * HALF * error / span,
        }

    margin = float(margins(view.scores, view.stderr)[0])
    return Part(
        "groups",
        {
            "picture": data_uri(image, PIXELS),
            "first": first,
            "undecided": margin < UNDECIDED_BELOW,
            "second": view.groups[order[1]] if len(order) > 1 else "",
            "owes": scores[order[0]] > 0,
            "chance": level == "chance",
            "rows": [bar(group) for group in shown],
            "zero": 100 * -low / span,
            "more": len(order) - len(shown),
            "unit": view.unit,
            "title": view.title,
            "undecided_below": f"{UNDECIDED_BELOW:g}",
        },
    )


def map_part(maps: GroupMaps | None, image: Tensor) -> Part:
    """Which region came from which group; ``map`` is None where the posterior cannot tell.

    Args:
        maps: Of one query.
        image: The picture, ``[channels, height, width]`` in [-1, 1].
    """
    if maps is None:
        return Part("map", {"map": None})
    (found,) = maps_of(maps, maps.query_ids, maps.groups)
    assert found is not None  # the maps are of this query and these groups
    led = [
        {"name": maps.groups[number], "colour": colour, "area": f"{area:.0%}", "where": where}
        for number, colour, area, where in found["led"]
    ]
    values = {"picture": data_uri(image, PIXELS), "map": found["image"], "led": led, "more": found["more"]}
    return Part("map", values)


def without_part(image: Tensor, drawn: Tensor, group: str, steps: int | None) -> Part:
    """The picture, and what the model without the group draws in its place.

    Args:
        image: The picture, ``[channels, height, width]`` in [-1, 1].
        drawn: What was drawn, likewise.
        group: The group that is left out.
        steps: Of drawing it again; None where it was drawn before, from the picture's own noise.
    """
    moved = float((image - drawn).square().mean().sqrt()) / 2
    return Part(
        "without",
        {
            "picture": data_uri(image, PIXELS),
            "drawn": data_uri(drawn, PIXELS),
            "group": group,
            "steps": steps,
            "moved": f"{moved:.0%}",
        },
    )


def nearest_part(group: str, nearest: Nearest) -> Part:
    """The training images of a group that look most like the picture, with their names."""
    pictures = [data_uri(image, PIXELS) for image in to_unit(nearest.images)]
    return Part("nearest", {"group": group, "samples": list(zip(nearest.ids, pictures, strict=True))})
