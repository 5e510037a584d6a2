from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

import guda_lightning
from guda_lightning.attribution import AttributionContext, FittedAttributor, PixelSimilarity
from guda_lightning.data import Digits, GroupDataModule, query_hash
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.images import to_unit
from guda_lightning.errors import ConfigError, GroupError, QueryError
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Similarity
from guda_lightning.types import Queries
from toys import GROUPS, message, shades, tiny_full

OVERLAPPING = Grouping({"few": [3, 40], "many": range(2, 45), "empty": [], "odd": range(1, 48, 2)}, 48)


def queries(count: int = 5, seed: int = 0) -> Queries:
    pixels = torch.randint(
        0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Queries(tuple(f"q{i}" for i in range(count)), to_unit(pixels))


def context(data: GroupDataModule | None, grouping: Grouping | None = None) -> AttributionContext:
    """Of a full model that no similarity looks at."""
    return AttributionContext(tiny_full(), data, grouping)


def scored(
    asked: Queries, data: GroupDataModule, grouping: Grouping | None = None, top: int = 10
) -> ScoreTable:
    return PixelSimilarity(top).fit(context(data, grouping)).score(asked)


def by_brute_force(
    asked: Tensor, images: Tensor, members: Sequence[int], top: int, mirrored: bool = False
) -> NDArray[np.float64]:
    """Mean of the ``top`` largest cosines, one pair of images after the other."""

    def cosine(x: Tensor, y: Tensor) -> float:
        first, second = x.flatten().numpy().astype(float), y.flatten().numpy().astype(float)
        return float(first @ second / math.sqrt((first @ first) * (second @ second)))

    rows = []
    for query in asked:
        values = [
            max(cosine(query, images[i]), cosine(query, images[i].flip(-1)) if mirrored else -1)
            for i in members
        ]
        rows.append(np.mean(sorted(values, reverse=True)[:top]))
    return np.array(rows)


@pytest.mark.parametrize("top", [1, 3, 10, 1000])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("chunk", [1024, 7])
def test_scores_are_means_of_the_largest_cosines(
    top: int, mirrored: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.attribution.similarity._CHUNK", chunk)
    asked, data = queries(), shades(horizontal_flip=mirrored)
    table = scored(asked, data, OVERLAPPING, top)
    assert table.groups == ("few", "many", "odd")  # the empty one has no images
    for column, name in enumerate(table.groups):
        expected = by_brute_force(
            asked.images, to_unit(data.images), OVERLAPPING.forget([name]), top, mirrored
        )
        assert table.matrix()[:, column].numpy() == pytest.approx(expected, abs=1e-6)
    assert (table.matrix().abs() <= 1 + 1e-12).all()


def test_the_table_says_how_it_was_made() -> None:
    asked, data = queries(), shades()
    fitted = PixelSimilarity(7).fit(context(data))
    table = fitted.score(asked)
    assert (table.queries, table.groups, fitted.groups) == (asked.ids, GROUPS, GROUPS)
    assert (table.methods, table.weightings, table.seeds) == (("similarity",), ("cosine",), (0,))
    assert not table.stderr_matrix().any()
    assert set(table.to_pandas()["n_draws"]) == {1}
    assert table.record == fitted.record(asked)
    assert table.record.grouping_hash == data.grouping.hash
    assert table.record.group_sizes == dict.fromkeys(GROUPS, 16)
    assert table.record.query_hash == query_hash(asked)
    assert isinstance(table.record.details, Similarity)
    assert table.record.details.top == 7
    assert torch.allclose(table.per_sample().matrix() * 16, table.matrix(), rtol=1e-15)


def test_the_record_differs_with_all_that_scores_depend_on() -> None:
    data, asked = shades(), queries()

    def record(fitted: FittedAttributor, asked: Queries = asked) -> str:
        return fitted.record(asked).hash

    fitted = PixelSimilarity().fit(context(data))
    others = [
        record(fitted),
        record(fitted, queries(seed=1)),
        record(PixelSimilarity(5).fit(context(data))),
        record(PixelSimilarity().fit(context(data, data.grouping.permuted(0, "p")))),
        record(PixelSimilarity().fit(context(shades(limit=47)))),
        record(PixelSimilarity().fit(context(shades(horizontal_flip=True)))),
        record(PixelSimilarity(groups=["dark"]).fit(context(data))),
    ]
    assert len(set(others)) == len(others)
    assert record(PixelSimilarity().fit(context(shades()))) == others[0]


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_scores_do_not_depend_on_the_batch(seed: int, size: int, top: int) -> None:
    asked = queries(9, seed)
    fitted = PixelSimilarity(top).fit(context(shades(), OVERLAPPING))
    whole = fitted.score(asked).matrix()
    parts = [
        fitted.score(Queries(asked.ids[i : i + size], asked.images[i : i + size])).matrix()
        for i in range(0, 9, size)
    ]
    assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    shuffled = Queries(tuple(asked.ids[i] for i in order), asked.images[order])
    assert torch.equal(fitted.score(shuffled).matrix(), whole[order])


def test_scores_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scored(queries(), shades(), OVERLAPPING).matrix()
    for chunk in (1, 5, 16):
        monkeypatch.setattr("guda_lightning.attribution.similarity._CHUNK", chunk)
        assert torch.equal(scored(queries(), shades(), OVERLAPPING).matrix(), whole)


def test_queries_are_rounded_as_files_round_them() -> None:
    exact = queries()
    noisy = Queries(exact.ids, exact.images + 0.003)
    assert torch.equal(scored(noisy, shades()).matrix(), scored(exact, shades()).matrix())


def test_a_training_image_is_most_similar_to_its_own_group() -> None:
    data = shades()
    table = scored(Queries(("a", "b"), to_unit(data.images[[2, 20]])), data, top=1)
    assert table.matrix()[0, 0].item() == pytest.approx(1, abs=1e-12)
    assert table.matrix()[1, 1].item() == pytest.approx(1, abs=1e-12)


def test_held_out_digits_are_most_similar_to_their_own_class() -> None:
    data = GroupDataModule(Digits())
    held_out = np.sort(np.random.default_rng(0).permutation(1797)[:300])
    # Held out: in no group, and so never compared with.
    members = {name: np.setdiff1d(data.grouping.forget([name]), held_out) for name in data.grouping.names}
    asked = Queries(tuple(map(str, held_out)), to_unit(data.images[held_out]))
    table = scored(asked, data, Grouping(members, 1797))
    first = [table.groups[column] for column in table.matrix().argmax(dim=1)]
    assert data.labels is not None
    right = np.mean([name == str(int(data.labels[i])) for name, i in zip(first, held_out, strict=True)])
    assert right > 0.95
    # Classes dealt at random lead no more often than by chance.
    dealt = scored(asked, data, Grouping(members, 1797).permuted(0, "p")).matrix().argmax(dim=1)
    assert (
        np.mean([int(column) == int(data.labels[i]) for column, i in zip(dealt, held_out, strict=True)]) < 0.2
    )


def test_groups_may_be_chosen_and_ordered() -> None:
    fitted = PixelSimilarity(groups=["noisy", "dark"]).fit(context(shades()))
    whole = scored(queries(), shades())
    assert fitted.score(queries()).groups == ("noisy", "dark")
    assert torch.equal(fitted.score(queries()).matrix(), whole.matrix()[:, [2, 0]])
    with pytest.raises(GroupError, match=r"^unknown group 'nosy'\n"):
        PixelSimilarity(groups=["nosy"]).fit(context(shades()))


def test_it_is_offered_by_the_package() -> None:
    assert guda_lightning.PixelSimilarity is PixelSimilarity


# refused


def test_no_top_is_refused() -> None:
    with pytest.raises(ConfigError, match=message("top is out of range", 0, "top >= 1", "take the usual 10")):
        PixelSimilarity(0)


def test_the_grouping_of_other_data_is_refused() -> None:
    expected = message(
        "the groups are those of other training data",
        "groups over 47 samples",
        "groups over 48 samples",
        "take the grouping of the same data section",
    )
    with pytest.raises(GroupError, match=expected):
        PixelSimilarity().fit(context(shades(), Grouping({"a": [0]}, 47)))


def test_no_queries_are_refused() -> None:
    expected = message(
        "there is nothing to score",
        "0 queries",
        "at least one image",
        "run `guda sample`, or pass --queries FILE|FOLDER",
    )
    with pytest.raises(QueryError, match=expected):
        scored(Queries((), torch.zeros(0, 1, 8, 8)), shades())


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 9), (1, 4, 16)])
def test_queries_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    expected = message(
        "the queries are not of the training images' shape",
        f"{shape}: channels, height, width",
        "(1, 8, 8)",
        "resize and convert them, or pass --resize true",
    )
    with pytest.raises(QueryError, match=expected):
        scored(Queries(("a",), torch.zeros(1, *shape)), shades())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_queries_that_are_no_numbers_are_refused(bad: float) -> None:
    asked = queries()
    asked.images[3, 0, 2, 2] = bad
    asked.images[4, 0, 0, 0] = bad
    expected = message(
        "the query 'q3' has pixels that are no numbers",
        "2 such queries",
        "finite pixels in [-1, 1]",
        "draw or export them again",
    )
    with pytest.raises(QueryError, match=expected):
        scored(asked, shades())
