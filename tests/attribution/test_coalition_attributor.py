from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from guda_lightning.attribution import AttributionContext, CoalitionAttributor, GuidanceAttributor
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.scores import Scoring
from toys import GROUPS, gray_queries, message, shades

SCORING = Scoring(strata=4, draws=1)
QUERIES = gray_queries("first", "second")
GROUPING = shades().grouping
PLAYERS = ("bright", "noisy")  # "dark" stays


def attributor(store: CounterfactualStore, **arguments: Any) -> CoalitionAttributor:
    return CoalitionAttributor(store.root, **{"reference": "dark", "scoring": SCORING, **arguments})


def scores(store: CounterfactualStore, full: FullModel, *groups: str) -> Tensor:
    inner = GuidanceAttributor(store.root, SCORING, groups=groups).fit(
        AttributionContext(full, grouping=GROUPING)
    )
    return inner.score(QUERIES).select(weighting="elbo").matrix()


def test_shapley_values_are_mean_marginal_contributions(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    fitted = attributor(guidance_store).fit(AttributionContext(guided_full, grouping=GROUPING))
    assert fitted.groups == PLAYERS
    table = fitted.score(QUERIES)
    assert table.record.scoring.stderr == "exact"
    assert (table.methods, table.weightings) == (("shapley",), ("elbo", "uniform", "middle"))
    single = scores(guidance_store, guided_full, "bright", "noisy", "bright+noisy")
    value = {(): torch.zeros(2), ("bright",): single[:, 0], ("noisy",): single[:, 1], PLAYERS: single[:, 2]}
    for column, player in enumerate(PLAYERS):
        gains = []
        for order in permutations(PLAYERS):
            before = tuple(sorted(order[: order.index(player)]))
            gains.append(value[tuple(sorted((*before, player)))] - value[before])
        expected = torch.stack(gains).mean(dim=0)
        found = table.select(weighting="elbo").matrix()[:, column]
        torch.testing.assert_close(found, expected.double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        table.select(weighting="elbo").matrix().sum(dim=1), single[:, 2], atol=1e-6, rtol=1e-5
    )
    assert table.record.group_sizes == dict.fromkeys(PLAYERS, 16)


def test_an_interaction_is_what_the_pair_costs_beyond_its_members(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    for worth in ("shapley_interactions", "banzhaf_interactions"):
        fitted = attributor(guidance_store, worth=worth).fit(
            AttributionContext(guided_full, grouping=GROUPING)
        )
        assert fitted.groups == ("bright*noisy",)
        single = scores(guidance_store, guided_full, "bright", "noisy", "bright+noisy")
        found = fitted.score(QUERIES).select(weighting="elbo").matrix()[:, 0]
        torch.testing.assert_close(found, single[:, 2] - single[:, 0] - single[:, 1], atol=1e-6, rtol=1e-5)


def test_many_players_are_sampled_and_still_sum_to_the_whole(
    guidance_store: CounterfactualStore, guided_full: FullModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.attribution.games._EXACT", 1)
    for worth, kind in (("shapley_permutation", "between pairs"), ("shapley", "jackknife")):
        fitted = attributor(guidance_store, worth=worth, count=8).fit(
            AttributionContext(guided_full, grouping=GROUPING)
        )
        table = fitted.score(QUERIES).select(weighting="elbo")
        assert kind in table.record.scoring.stderr
        whole = scores(guidance_store, guided_full, "bright+noisy")[:, 0]
        torch.testing.assert_close(table.matrix().sum(dim=1), whole, atol=1e-6, rtol=1e-5)


def test_samples_in_no_group_are_a_reference(guidance_store: CounterfactualStore) -> None:
    from guda_lightning.attribution.games import players_of

    grouping = Grouping({"a": [0, 1], "b": [1, 2], "empty": []}, num_samples=4)
    assert players_of(grouping, None, "reference") == ("a", "b")
    assert list(combinations(players_of(grouping, None, "reference"), 2)) == [("a", "b")]


@pytest.mark.parametrize(
    ("reference", "problem", "found"),
    [
        (None, "the players of a coalition game cannot be all the data", "3 groups over 48 of 48 samples"),
    ],
)
def test_players_that_cover_all_data_are_refused(
    guidance_store: CounterfactualStore,
    guided_full: FullModel,
    reference: str | None,
    problem: str,
    found: str,
) -> None:
    with pytest.raises(
        ConfigError,
        match=message(
            problem,
            found,
            "two groups or more, and samples that always stay",
            "set attributor.init_args.reference to a group that stays, such as 'dark'",
        ),
    ):
        attributor(guidance_store, reference=reference).fit(
            AttributionContext(guided_full, grouping=GROUPING)
        )


def test_an_unknown_reference_or_kind_is_refused(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    with pytest.raises(GroupError, match="unknown group 'drak'"):
        attributor(guidance_store, reference="drak").fit(AttributionContext(guided_full, grouping=GROUPING))
    with pytest.raises(ConfigError, match="the kind of value is unknown\n  found:    sharpley"):
        attributor(guidance_store, worth="sharpley")


@pytest.mark.parametrize(
    ("names", "worth", "expected"),
    [
        (
            ("a", "b", "a+b"),
            "shapley",
            message("'a+b+b' means several groups", "'a+b' + 'b' or 'a' + 'b'", "one meaning",
                    "rename the group that holds the '+'"),
        ),
        (
            ("a", "b*c", "a*b", "c"),
            "banzhaf_interactions",
            message("two pairs of groups are called 'a*b*c'", "b*c and a*b", "names that tell pairs apart",
                    "rename the groups that hold a '*'"),
        ),
    ],
)  # fmt: skip
def test_coalitions_that_are_called_the_same_are_refused(
    names: tuple[str, ...],
    worth: str,
    expected: str,
    guidance_store: CounterfactualStore,
    guided_full: FullModel,
) -> None:
    grouping = Grouping({name: [index] for index, name in enumerate(names)}, len(names) + 1)
    with pytest.raises(GroupError, match=expected):
        attributor(guidance_store, worth=worth, reference=None).fit(
            AttributionContext(guided_full, grouping=grouping)
        )


def test_unlearned_coalitions_that_are_missing_are_named(
    guidance_store: CounterfactualStore, guided_full: FullModel
) -> None:
    with pytest.raises(
        StoreError,
        match=r"made by retrack\n .*those of guidance\n .*\n .*correct the operator, or run guda unlearn$",
    ):
        attributor(guidance_store, operator="retrack").fit(AttributionContext(guided_full, grouping=GROUPING))
    assert GROUPS == ("dark", "bright", "noisy")
