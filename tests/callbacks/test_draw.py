"""Which samples of a validation are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from scipy.stats import chisquare
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from guda_lightning.callbacks.draw import Draw
from guda_lightning.callbacks.query_counts import drawn_text, most_text
from guda_lightning.data.gathering import Collected
from guda_lightning.data.query_groups import groups_of_queries
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.types import Queries
from toys import quiet_trainer

SAMPLES, MOST = 23, 6


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> pl.Trainer:
    return quiet_trainer(tmp_path_factory.mktemp("draw"))


class _Process(Ranks):
    """One of several processes, which hears of the others what a test has collected of them."""

    def __init__(self, rank: int, count: int, others: list[Any]) -> None:
        super().__init__(rank, count)
        object.__setattr__(self, "others", others)

    def all_gather(self, value: Any) -> list[Any]:
        return self.others  # type: ignore[attr-defined,no-any-return]


def taken(
    trainer: pl.Trainer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    batch: int = 4,
    processes: int = 1,
    named: bool = False,
    seed: int = 0,
    order: Callable[[int], int] = lambda place: place,
    dealt: bool = True,
    most: int = MOST,
) -> tuple[list[int], int | None]:
    """The samples that processes draw together, dealt as Lightning does or each all, and of how many."""
    data = TensorDataset(torch.arange(SAMPLES))
    held: list[Any] = []
    for rank in range(processes):
        sampler = DistributedSampler(data, processes, rank, shuffle=False) if dealt else None
        loader = DataLoader(data, batch, sampler=sampler)
        monkeypatch.setattr(type(trainer), "val_dataloaders", loader)
        draw = Draw(most, seed)
        draw.start(trainer)
        draw._ranks = _Process(rank, processes, held)
        for (rows,) in loader:
            numbers = [order(int(row)) for row in rows]
            lots = draw.lots(trainer, [str(n) if named else None for n in numbers], 0)
            draw.pass_by(len(rows), 0)
            if lots.rows:
                chosen = [numbers[row] for row in lots.rows]
                queries = Queries(tuple(map(str, chosen)), torch.tensor(chosen).reshape(-1, 1, 1, 1))
                draw.take(
                    Collected.of(queries)._replace(places=lots.places, lots=lots.values),
                    0,
                )
        held.append((draw._kept, draw._seen))
    found = draw.gathered(trainer)
    assert found is not None
    return list(map(int, found[0].ids)), found[1]


@pytest.mark.parametrize("named", [False, True])
def test_the_draw_is_the_same_for_any_batches_and_processes(
    trainer: pl.Trainer, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    one = taken(trainer, monkeypatch, named=named)
    assert one[1] == SAMPLES
    assert len(set(one[0])) == MOST and one[0] == sorted(one[0])
    for batch, processes in ((1, 1), (23, 1), (4, 2), (3, 4)):  # 24 samples are dealt to two and to four
        assert taken(trainer, monkeypatch, batch=batch, processes=processes, named=named) == one
    assert taken(trainer, monkeypatch, named=named, seed=1)[0] != one[0]


def test_named_samples_are_drawn_whatever_their_order(
    trainer: pl.Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards = taken(trainer, monkeypatch, named=True, order=lambda place: SAMPLES - 1 - place)[0]
    assert sorted(backwards) == taken(trainer, monkeypatch, named=True)[0]


def test_of_how_many_is_not_said_where_processes_may_share_samples(
    trainer: pl.Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = taken(trainer, monkeypatch, named=True)
    assert taken(trainer, monkeypatch, named=True, dealt=False) == one
    assert taken(trainer, monkeypatch, named=True, dealt=False, processes=2) == (one[0], None)
    every = taken(trainer, monkeypatch, named=True, dealt=False, processes=2, most=SAMPLES + 1)
    assert every == (list(range(SAMPLES)), SAMPLES)


def test_every_sample_is_as_likely(trainer: pl.Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[int] = Counter()
    for seed in range(200):
        counts.update(taken(trainer, monkeypatch, batch=8, seed=seed)[0])
    assert sum(counts.values()) == 200 * MOST
    assert chisquare([counts[sample] for sample in range(SAMPLES)]).pvalue > 0.001


def test_queries_belong_to_the_group_of_their_label_or_their_folder() -> None:
    ids = ("a", "cats/1", "cats/dogs/2", "art/late work/3", "none/4")
    groups = ("cats", "dogs", "art/late work")
    unlabelled = Queries(ids, torch.zeros(5, 1, 1, 1))
    assert groups_of_queries(unlabelled, groups) == [None, "cats", "dogs", "art/late work", None]
    labelled = Queries(ids, torch.zeros(5, 1, 1, 1), torch.tensor([1, 1, 2, 2, 0]))
    names = ("cats", "dogs", "birds")
    assert groups_of_queries(labelled, groups, names) == ["dogs", "dogs", "dogs", "art/late work", "cats"]
    assert groups_of_queries(labelled, groups) == groups_of_queries(unlabelled, groups)  # prompts, no classes


def test_what_is_said_of_the_queries() -> None:
    assert drawn_text(4, 4, 0, ["a"] * 4) is None
    text = "scores 3 of 1,200 validation samples, drawn over all of them with seed 7"
    assert drawn_text(3, 1200, 7, [None] * 3) == text
    assert drawn_text(3, 1200, 7, ["b", "a", "b"]) == f"{text}: 1 of a, 2 of b"
    assert drawn_text(3, None, 7, [None] * 3) == text.replace(" of 1,200", "")
    # Of two groups most are more than three quarters, of ten more than 55 %.
    assert most_text(["a"] * 3 + ["b"], ["a", "b"]) is None
    assert most_text(["a"] * 4 + ["b"], ["a", "b"]) == (
        "4 of 5 queries are of group 'a': mean scores say little of queries of the other groups; give the "
        "trainer validation data of all groups, or pass queries=FOLDER"
    )
    ten = [str(number) for number in range(10)]
    assert most_text(["0"] * 11 + ten[:9], ten) is not None
    assert most_text(["0"] * 10 + ten, ten) is None
    assert most_text([None] * 3, ten) is None
    assert most_text(["a"] * 3, ["a"]) is None
