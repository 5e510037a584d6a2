"""What counterfactuals draw from the noise of the queries, as a section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from guda_lightning.data import QueryFolder
from guda_lightning.report.charts import MAX_PICTURE_GROUPS, MAX_PICTURE_QUERIES
from guda_lightning.report.distances import Distances
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.summaries import group_summaries
from guda_lightning.scores.views import views
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import folder_record
from guda_lightning.types import Queries

_RECORD = "record.json"
_NOISE = ("full_hash", "steps", "seed", "prompt_guidance")  # what pictures must share with the queries


@dataclass(frozen=True)
class Without:
    """Pictures with and without groups.

    Attributes:
        full: What the full model draws, one row each.
        groups: Name of the groups to what the counterfactual without them draws, ``[rows, ...]``.
        scored: Whether the scores of the page are about these queries.
        caption: How the pictures were made.
        moved: By group, how far each picture lies from that of the full model, in words; empty where nobody
            has measured it.
        radii: Likewise, how far the picture moves at most, over all single groups and not only these.
    """

    full: Queries
    groups: Mapping[str, Tensor]
    scored: bool
    caption: str
    moved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    radii: Sequence[str] = ()

    @classmethod
    def of(cls, run: RunFolder, table: ScoreTable, shape: tuple[int, int, int]) -> Without | None:
        """The pictures that belong to the queries of a run folder and to the full model of a score table.

        Those of the table's own counterfactuals alone: what another method removes, it does not score. Groups
        are in the order of their mean score, queries are those that the table scores highest.

        Args:
            run: The run folder.
            table: The scores that the page shows.
            shape: Of an image.
        """
        found = drawn_beside(run, table.record.full_hash, shape)
        operator = table.methods[0]
        if all(config["operator"] != operator for config in found.values()):
            return None
        record, full = folder_record(run.queries), QueryFolder(run.queries, shape)
        shown = views(table)[0]  # the one that the page begins with
        means = {one.group: one.mean for one in group_summaries(shown)}
        of_groups = {c["without"]: folder for folder, c in found.items() if c["operator"] == operator}
        lowest = float("-inf")  # a group without a score comes last
        groups = sorted(of_groups, key=lambda name: -means.get(name, lowest))[:MAX_PICTURE_GROUPS]
        configs = [found[of_groups[name]] for name in groups]
        seeds = ", ".join(map(str, sorted({config["counterfactual_seed"] for config in configs})))
        rows: list[int] = list(range(min(len(full), *(config["num"] for config in configs))))  # that all have
        scored = table.record.query_hash == record.get("query_hash")
        if scored:
            best = dict(zip(shown.queries, shown.scores.amax(dim=1).tolist(), strict=True))
            rows.sort(key=lambda row: -best.get(full.ids[row], lowest))
        rows = rows[:MAX_PICTURE_QUERIES]
        ids = [full.ids[row] for row in rows]
        measured = Distances.load(run, operator, found, table.record.grouping_hash)
        return cls(
            full.load(rows),
            {name: QueryFolder(of_groups[name], shape).load(rows).images for name in groups},
            scored,
            f"{operator}, seed of the counterfactuals {seeds}; pictures in {configs[0]['steps']} steps, "
            f"seed {configs[0]['seed']}",
            {} if measured is None else {name: measured.of_group(name, ids) for name in groups},
            () if measured is None else measured.radii(ids),
        )

    @staticmethod
    def exists(run: RunFolder) -> bool:
        """Whether there are any pictures, whatever they belong to."""
        return bool(_configs(run))


def drawn_beside(
    run: RunFolder, full_hash: str | None, shape: tuple[int, int, int]
) -> dict[Path, dict[str, Any]]:
    """The pictures that come from the noise of the queries, each folder with what it was drawn with.

    Args:
        run: The run folder.
        full_hash: Of the full model; None: any.
        shape: Of an image.
    """
    if not (run.queries / _RECORD).is_file():
        return {}
    full = QueryFolder(run.queries, shape)
    drawn = folder_record(run.queries).get("config", {})
    return {
        folder: config
        for folder, config in _configs(run).items()
        if all(config.get(name) == drawn.get(name) for name in _NOISE)
        and config.get("prompts") == _first_prompts(full, config["num"])
        and full_hash in (None, config["full_hash"])
    }


def shown_operator(found: Mapping[Path, Mapping[str, Any]], table: ScoreTable) -> str:
    """Whose pictures are shown: the table's own counterfactuals', else those of the first operator."""
    operators = sorted({config["operator"] for config in found.values()})
    return table.methods[0] if table.methods[0] in operators else operators[0]


def _first_prompts(queries: QueryFolder, count: int) -> str | None:
    """What a record says of the prompts of the first queries."""
    return None if queries.prompts is None else sha256_json(queries.prompts[:count])


def _configs(run: RunFolder) -> dict[Path, dict[str, Any]]:
    """What every folder of complete pictures was drawn with."""
    records = sorted(run.without.glob(f"*/*/{_RECORD}"))
    # Names that begin with a dot are what an interrupted writing left.
    return {
        path.parent: folder_record(path.parent)["config"]
        for path in records
        if not path.parent.name.startswith(".")
    }
