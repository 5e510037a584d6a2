from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from guda_lightning.evaluation import agreement
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.page import Page, PageTable, write_page
from guda_lightning.report.standing import Findings
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Custom
from guda_lightning.types import Queries


def _score_table(
    scores: torch.Tensor,
    stderr: torch.Tensor | None = None,
    *,
    groups: list[str] | None = None,
    queries: list[str] | None = None,
    method: str = "retrack",
    weighting: str = "elbo",
    seed: int = 0,
) -> ScoreTable:
    return ScoreTable.from_matrix(
        scores,
        torch.full_like(scores, 0.1) if stderr is None else stderr,
        query_ids=queries or [f"q{i}" for i in range(len(scores))],
        groups=groups or [f"g{i}" for i in range(scores.shape[1])],
        n_draws=2,
        method=method,
        weighting=weighting,
        seed=seed,
        record=ScoreRecord(Custom()),
    )


@pytest.fixture
def score_table() -> Callable[..., ScoreTable]:
    """Builds a small table; rows are q0, q1, ... and columns g0, g1, ... unless named."""
    return _score_table


def _evaluation(
    *methods: str,
    weightings: tuple[str, ...] = ("elbo", "uniform"),
    seeds: int = 2,
    **others: Callable[[torch.Tensor], torch.Tensor],
) -> Evaluation:
    truth = torch.randn(40, 5)
    frames: dict[str, list[pd.DataFrame]] = {"metrics": [], "comparisons": [], "magnitudes": []}
    for weighting in weightings:
        found = agreement(
            {
                **{name: truth + 0.5 * i * torch.randn(40, 5) for i, name in enumerate(methods, start=1)},
                **{name: of(truth) for name, of in others.items()},
            },
            truth + 0.5 * torch.randn(seeds, 40, 5),
            resamples=100,
        )
        for name, parts in frames.items():
            parts.append(getattr(found, name).assign(weighting=weighting, noise="all draws", per="group"))
    record = {
        "methods": {name: f"hash of {name}" for name in (*methods, *others)},
        "oracles": {f"retrain-{seed}": f"hash of {seed}" for seed in range(seeds)},
        "oracle_seeds": list(range(seeds)),
        "query_hash": "the queries",
        "queries": 40,
        "groups": [f"g{i}" for i in range(5)],
        "groups_scored": 5,
        "per": "group",
        "calibration_groups": [],
        "resamples": 100,
        "level": 0.95,
        "seed": 0,
        "notes": [],
    }
    return Evaluation(**{name: pd.concat(parts) for name, parts in frames.items()}, record=record)


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """Builds an evaluation of the named methods, each worse than the one before it, or made of the truth."""
    return _evaluation


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Path]:
    """Writes a page about a table; what is not given is small."""

    def write(table: ScoreTable, beside: Sequence[ScoreTable] = (), **changes: Any) -> Path:
        return write_page(tmp_path / "report", page_of(table, beside, **changes))

    return write


@pytest.fixture
def shown() -> Callable[..., Page]:
    """What ``page`` writes of a table."""
    return page_of


def page_of(table: ScoreTable, beside: Sequence[ScoreTable] = (), **changes: Any) -> Page:
    """What a page shows of a table; what is not given is small."""
    curves = [
        {"group": group, "step": step, "own": 0.5 * step, "other": 0.01 * step}
        for group in table.groups
        for step in (0, 10, 20)
    ]
    found = {name: changes.pop(name) for name in ("evaluation", "placebo") if name in changes}
    names = ("curves", "without", "maps", "nearest", "levels")
    own = {"curves": curves, **{name: changes.pop(name) for name in names if name in changes}}
    first = PageTable(name=_named(table), table=table, findings=Findings(**found), **own)
    arguments: dict[str, Any] = {
        "queries": Queries(table.queries, torch.rand(len(table.queries), 3, 8, 8) * 2 - 1),
        "examples": {group: torch.rand(4, 3, 8, 8) * 2 - 1 for group in table.groups},
        "facts": {"full model": "runs/digits/full"},
        "title": "Digits",
    }
    others = [PageTable(name=_named(one), table=one, findings=Findings(**found)) for one in beside]
    return Page(tables=[first, *others], **{**arguments, **changes})


def _named(table: ScoreTable) -> str:
    return "-".join([*table.methods, *map(str, table.seeds)])
