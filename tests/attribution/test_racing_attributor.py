from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guda_lightning.attribution import (
    AttributionContext,
    FittedAttributor,
    GuidanceAttributor,
    RacingAttributor,
)
from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution, ignore
from guda_lightning.errors import ConfigError
from guda_lightning.scores import Scoring
from toys import GROUPS, gray_queries, message, shades, tiny_unet

GROUPING = shades().grouping
QUERIES = gray_queries("first", "second", "third")


def racing(
    store: CounterfactualStore,
    full: FullModel,
    on_evaluations: Callable[[int], None] = ignore,
    **arguments: Any,
) -> FittedAttributor:
    options = {"strata": 4, "rounds": (2, 3), "scoring": Scoring(seed=5), **arguments}
    execution = Execution(on_evaluations=on_evaluations)
    return RacingAttributor(store.root, **options).fit(
        AttributionContext(full, grouping=GROUPING, execution=execution)
    )


def round_scores(store: CounterfactualStore, full: FullModel, number: int) -> Tensor:
    """A round by itself, scored as any table is."""
    scoring = Scoring(seed=5 + 2**32 * (number + 1), strata=4, draws=1)
    table = (
        GuidanceAttributor(store.root, scoring)
        .fit(AttributionContext(full, grouping=GROUPING))
        .score(QUERIES)
    )
    return table.select(weighting="uniform").matrix()


def test_an_open_race_is_the_mean_of_all_its_rounds(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    fitted = racing(guidance_store, guided_full, delta=1e-9)
    assert (fitted.method, fitted.groups) == ("guidance_race", GROUPS)
    table = fitted.score(QUERIES)
    rounds = torch.stack([round_scores(guidance_store, guided_full, number) for number in range(3)])
    torch.testing.assert_close(table.matrix(), rounds.mean(dim=0), atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(table.stderr_matrix(), rounds.std(dim=0) / 3**0.5, atol=1e-9, rtol=1e-6)
    assert set(table.to_pandas()["n_draws"]) == {12}
    assert table.notes == (
        "race: the top 1 of 0 of 3 queries are known at δ = 1e-09, after 12 timesteps a query on average, "
        "12 at most",
    )
    assert fitted.evaluations(QUERIES) == 3 * 4 * 3


def test_a_decided_query_costs_nothing_more(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    spent: list[int] = []
    rules: dict[str, Any] = {"delta": 0.999, "rounds": (2, 60), "scoring": Scoring(seed=26)}
    fitted = racing(guidance_store, guided_full, spent.append, **rules)
    table = fitted.score(QUERIES)
    draws = table.to_pandas().groupby("query").n_draws.max()
    assert int(draws.sum()) == sum(spent)
    assert sum(spent) < 3 * 4 * 60


def test_models_of_decided_groups_are_not_evaluated(
    tmp_path: Path, guided_full: FullModel, guidance_store: CounterfactualStore
) -> None:
    for seed, group in enumerate(GROUPS, start=1):
        guidance_store.save(
            tiny_unet(seed).state_dict(),
            CounterfactualRecord(
                operator="retrack",
                groups=(group,),
                seed=0,
                hparams={},
                full_hash=guided_full.hash,
                grouping_hash=GROUPING.hash,
                members_hash=GROUPING.members_hash([group]),
                schedule_hash=guided_full.model.schedule.hash,
                history=[],
                versions={},
                seconds=1.0,
                steps=1,
                network_evaluations=1,
            ),
        )
    spent: list[int] = []
    fitted = racing(guidance_store, guided_full, spent.append, operator="retrack", delta=0.5, rounds=(2, 30))
    frame = fitted.score(QUERIES).to_pandas()
    # Every draw of a group costs its model one pass, and the full model one for the group that went furthest.
    expected = frame.n_draws.sum() + frame.groupby("query").n_draws.max().sum()
    assert sum(spent) == expected
    assert fitted.evaluations(QUERIES) == 3 * 4 * 30 * 4


def test_as_many_leaders_as_groups_are_refused(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    with pytest.raises(
        ConfigError,
        match=message("k is out of range", "3", "1 <= k < 3, the number of groups", "take a k from 1 to 2"),
    ):
        racing(guidance_store, guided_full, top=3)
