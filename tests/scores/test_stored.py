"""Squared errors on disk, and what one of their draws says."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler

from guda_lightning.attribution import AttributionContext, CounterfactualAttributor
from guda_lightning.data import load_queries
from guda_lightning.diffusion import DiffusionModule, open_full, open_schedule
from guda_lightning.errors import StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.scores import ScoreTable, Scoring, stored_errors, table_of_draw
from guda_lightning.types import Weighting
from toys import message, tiny_unet


@pytest.fixture
def table(finished_run: Path) -> ScoreTable:
    return ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")


@pytest.fixture
def errors_folder(finished_run: Path) -> Path:
    return finished_run / "scores" / "errors"


def test_the_errors_of_a_table_are_all_files_that_scoring_left(
    table: ScoreTable, errors_folder: Path
) -> None:
    errors = stored_errors(table, errors_folder)
    assert list(errors) == [None, *table.groups]
    assert {found.record["model"] for found in errors.values()} == {
        table.record.full_hash,
        *table.record.details.counterfactuals.values(),
    }
    assert len(list(errors_folder.iterdir())) == len(errors)


def test_the_schedule_of_a_run_is_read_without_its_weights(finished_run: Path, table: ScoreTable) -> None:
    (finished_run / "full" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert open_schedule(finished_run / "full").hash == table.record.provenance.schedule_hash


def test_the_mean_of_the_single_draws_is_the_table_of_both(
    finished_run: Path, table: ScoreTable, errors_folder: Path
) -> None:
    errors, schedule = stored_errors(table, errors_folder), open_schedule(finished_run / "full")
    one, other = (table_of_draw(table, errors, schedule, draw) for draw in (0, 1))
    assert (one.queries, one.groups, one.record) == (table.queries, table.groups, table.record)
    for weighting in get_args(Weighting):
        first, second, both = (part.select(weighting=weighting).matrix() for part in (one, other, table))
        torch.testing.assert_close((first + second) / 2, both, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(first, second, rtol=0.01)  # other noise


def test_the_single_draws_of_a_fixed_grid_average_to_its_table(finished_run: Path, tmp_path: Path) -> None:
    full = open_full(finished_run / "full", DiffusionModule(tiny_unet(), DDPMScheduler()))
    queries = load_queries(finished_run / "queries", (1, 8, 8))
    scored = CounterfactualAttributor(
        finished_run / "store",
        scoring=Scoring(seed=3, draws=3, grid=(4, 30, 8)),
        groups=["3", "7"],
    )
    table = scored.fit(AttributionContext(full, cache=tmp_path)).score(queries)
    errors = stored_errors(table, tmp_path)
    draws = [table_of_draw(table, errors, full.model.schedule, draw) for draw in range(3)]
    for weighting in get_args(Weighting):
        mean = torch.stack([draw.select(weighting=weighting).matrix() for draw in draws]).mean(dim=0)
        torch.testing.assert_close(mean, table.select(weighting=weighting).matrix(), rtol=1e-9, atol=1e-9)


def test_errors_that_are_gone_are_named(table: ScoreTable, tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=rf"^{tmp_path}/\w+\.safetensors cannot be read\n  found:    no such file"
    ):
        stored_errors(table, tmp_path)


def test_another_schedule_is_refused(table: ScoreTable, errors_folder: Path) -> None:
    other = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 50))
    expected = message(
        "the scores were made on another noise schedule",
        f"schedule_hash {other.hash[:16]}",
        f"schedule_hash {table.record.provenance.schedule_hash[:16]}",
        "give the schedule of the full model that was scored",
    )
    with pytest.raises(StoreError, match=expected):
        table_of_draw(table, stored_errors(table, errors_folder), other, 0)
