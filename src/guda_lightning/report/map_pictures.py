"""Which part of a query came from which group, as small pictures that the page lays over the query."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from guda_lightning.scores.maps import GroupMaps

MAX_MAPS = 250  # queries that have one: about 1 MB at 64 x 64
MAX_SIDE = 64  # larger maps are averaged down to it
MAX_LED = 6  # groups that are listed beside a map
# Tableau 10: told apart on white and on black; the names stand beside them in any case.
COLOURS = (
    *("4e79a7", "f28e2b", "e15759", "76b7b2", "59a14f"),
    *("edc948", "b07aa1", "ff9da7", "9c755f", "bab0ac"),
)
_LEVELS = 16  # of opacity


def maps_of(maps: GroupMaps, queries: Sequence[str], groups: Sequence[str]) -> list[dict[str, Any] | None]:
    """For each query its map, or None.

    Args:
        maps: Shares of the groups.
        queries: Names of the queries, in the order of the page.
        groups: Names of the groups, in the order of the page; maps of others are left out.

    Returns:
        ``image``, one pixel a position, in the colour of the group with the largest share there and as opaque
        as that is large; and ``led``, the groups that lead in the largest parts: number, colour, how much of
        the picture, and where. As many groups as there are colours keep theirs from query to query.
    """
    row = {query: number for number, query in enumerate(maps.query_ids)}
    column = {group: number for number, group in enumerate(maps.groups)}
    known = [number for number, group in enumerate(groups) if group in column]
    columns = [column[groups[number]] for number in known]
    shown = [query if number < MAX_MAPS and query in row else None for number, query in enumerate(queries)]
    return [
        None
        if query is None or not known
        else _one(maps.shares[row[query]][columns].float(), known, len(groups))
        for query in shown
    ]


def _one(shares: Tensor, known: Sequence[int], groups: int) -> dict[str, Any]:
    """The map of one query from ``[groups, height, width]``."""
    shrink = max(1.0, max(shares.shape[1:]) / MAX_SIDE)
    if shrink > 1:
        height, width = (max(1, round(side / shrink)) for side in shares.shape[1:])
        shares = adaptive_avg_pool2d(shares, (height, width))
    share, leader = shares.max(dim=0)
    area = torch.bincount(leader.flatten(), minlength=len(known)) / leader.numel()
    order = [int(place) for place in area.argsort(descending=True, stable=True) if area[place] > 0]
    colour = {place: known[place] if groups <= len(COLOURS) else rank for rank, place in enumerate(order)}
    colour = {place: min(number, len(COLOURS) - 1) for place, number in colour.items()}
    lookup = torch.tensor([colour.get(place, 0) for place in range(len(known))])
    level = (share * _LEVELS).ceil().clamp(1, _LEVELS).long() - 1
    return {
        "image": _png((lookup[leader] * _LEVELS + level).numpy().astype(np.uint8)),
        "led": [
            [
                known[place],
                f"#{COLOURS[colour[place]]}",
                round(float(area[place]), 4),
                _where(leader == place),
            ]
            for place in order[:MAX_LED]
        ],
        "more": max(0, len(order) - MAX_LED),
    }


def _where(inside: Tensor) -> str:
    """Where the middle of an area ``[height, width]`` lies: ``top left``, ``right``, or ``middle``."""
    words = []
    for place, size, names in zip(inside.nonzero().float().mean(0), inside.shape, _SIDES, strict=True):
        at = (float(place) + 0.5) / size
        words.append(names[0] if at < 0.4 else names[1] if at > 0.6 else "")
    return " ".join(filter(None, words)) or "middle"


_SIDES = (("top", "bottom"), ("left", "right"))


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """A picture of a palette: for each colour, every level of opacity."""
    from PIL import Image

    picture, file = Image.fromarray(pixels, mode="P"), io.BytesIO()
    palette = [bytes.fromhex(colour) * _LEVELS for colour in COLOURS]
    picture.putpalette(b"".join(palette))
    opacity = [math.ceil(255 * (level + 1) / _LEVELS) for level in range(_LEVELS)]
    picture.save(file, "PNG", optimize=True, transparency=bytes(opacity * len(COLOURS)))
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
