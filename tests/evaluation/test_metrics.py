from __future__ import annotations

import doctest
import importlib
import json
import math
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torchmetrics import Metric, MetricCollection

from guda_lightning.errors import ConfigError
from guda_lightning.evaluation import MRR, NDCG, RBO, WPRA, Spearman, Top1Agreement
from guda_lightning.functional import ranking
from toys import message

CASES = json.loads((Path(__file__).parents[1] / "reference" / "ranking.json").read_text())
# Name in METRICS: its class with arguments, and its name in the reference.
KINDS: dict[str, tuple[type[Metric], dict[str, Any], str]] = {
    "top1": (Top1Agreement, {}, "top1"),
    "mrr": (MRR, {}, "mrr"),
    "ndcg@3": (NDCG, {}, "ndcg_3"),
    "ndcg@5": (NDCG, {"k": 5}, "ndcg_5"),
    "wpra@3": (WPRA, {}, "wpra_top3"),
    "wpra": (WPRA, {"top": None}, "wpra_all"),
    "rbo": (RBO, {}, "rbo_p09"),
    "spearman": (Spearman, {}, "spearman"),
}


def make(name: str) -> Metric:
    kind, arguments, _ = KINDS[name]
    return kind(**arguments)


def reference(groups: int) -> dict[str, Tensor]:
    cases = [case for case in CASES if len(case["scores"]) == groups]
    return {key: torch.tensor([case[key] for case in cases], dtype=torch.float64) for key in cases[0]}


def test_the_metrics_of_an_evaluation_and_their_order() -> None:
    assert list(ranking.METRICS) == list(KINDS)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("groups", sorted({len(case["scores"]) for case in CASES}))
def test_reference_numbers(name: str, groups: int) -> None:
    cases, key = reference(groups), KINDS[name][2]
    per_query = ranking.METRICS[name](cases["scores"], cases["gold"])
    torch.testing.assert_close(per_query, cases[key], rtol=0, atol=1e-9)
    metric = make(name)
    for scores, oracle in zip(cases["scores"].split(3), cases["gold"].split(3), strict=True):
        metric.update(scores, oracle)
    torch.testing.assert_close(metric.compute(), cases[key].mean(), rtol=0, atol=1e-9)


def test_arguments_reach_the_formula() -> None:
    scores, oracle = torch.randn(5, 8), torch.randn(5, 8)
    for metric, expected in (
        (NDCG(k=1), ranking.ndcg(scores, oracle, 1)),
        (WPRA(top=1), ranking.wpra(scores, oracle, 1)),
        (RBO(p=0.3), ranking.rbo(scores, oracle, 0.3)),
    ):
        torch.testing.assert_close(metric(scores, oracle), expected.mean())


def test_forward_gives_the_batch_and_compute_all_batches() -> None:
    metrics = MetricCollection({name: make(name) for name in KINDS})
    scores, oracle = torch.randn(10, 4), torch.randn(10, 4)
    parts = [slice(0, 7), slice(7, 10)]  # batches of unequal size: the mean of their means would be wrong
    batches = [metrics(scores[part], oracle[part]) for part in parts]
    for name, value in metrics.compute().items():
        torch.testing.assert_close(value, ranking.METRICS[name](scores, oracle).mean())
        for batch, part in zip(batches, parts, strict=True):
            torch.testing.assert_close(batch[name], ranking.METRICS[name](scores[part], oracle[part]).mean())
        assert metrics[name].higher_is_better is True
        assert metrics[name].full_state_update is False


def test_a_collection_keeps_metrics_apart_that_begin_alike() -> None:
    formulas = ranking.METRICS | {"steep": lambda *sides: ranking.rbo(*sides, p=0.5)}
    metrics = MetricCollection({"steep": RBO(p=0.5), **{name: make(name) for name in KINDS}})
    oracle = torch.arange(6.0).expand(2, -1)
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 4.0, 5.0, 3.0]])
    for query in (0, 1):  # the first is in the oracle's order: all but RBO are 1
        metrics.update(scores[query, None], oracle[query, None])
    found = metrics.compute()
    for name, formula in formulas.items():
        torch.testing.assert_close(found[name], formula(scores, oracle).mean())


def test_a_metric_survives_pickling_and_resets() -> None:
    metric = NDCG(k=2)
    metric.update(torch.eye(3), torch.eye(3).flip(0))
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute() == metric.compute() != 1
    again.reset()
    again.update(torch.eye(3), torch.eye(3))
    torch.testing.assert_close(again.compute(), ranking.ndcg(torch.eye(3), torch.eye(3), 2).mean())


def test_no_queries() -> None:
    metric = MRR()
    metric.update(torch.rand(0, 3), torch.rand(0, 3))  # an empty batch is none
    expected = message(
        "MRR has no queries to average over",
        "0 queries",
        "at least 1",
        "call update(scores, oracle) before compute()",
    )
    with pytest.raises(ConfigError, match=expected):
        metric.compute()
    metric.update(torch.eye(3), torch.eye(3))
    assert metric.compute() == 1


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (NDCG, {"k": 0}, ("k is out of range", 0, "k >= 1", "take a larger k")),
        (WPRA, {"top": -1}, ("top is out of range", -1, "top >= 1", "take a larger top")),
        (RBO, {"p": math.nan}, ("p is out of range", math.nan, "0 < p < 1", "take the usual 0.9")),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(
    kind: type[Metric], arguments: dict[str, Any], expected: tuple[str, object, object, str]
) -> None:
    with pytest.raises(ConfigError, match=message(*expected)):
        kind(**arguments)


def queries() -> tuple[Tensor, Tensor]:
    scores, oracle = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(4))
    return scores, oracle


def one_process(rank: int, processes: int, folder: Path) -> None:
    """Score this process's share of the queries."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    scores, oracle = queries()
    share = slice(0, 5) if rank == 0 else slice(5, 7)
    found = {}
    for name in KINDS:
        metric = make(name)
        for query in range(7)[share]:
            metric.update(scores[query, None], oracle[query, None])
        found[name] = metric.compute()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_shares_agree_with_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_process, (2, tmp_path), nprocs=2)
    scores, oracle = queries()
    for name in KINDS:
        one = make(name)
        one.update(scores, oracle)
        for rank in (0, 1):
            torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt")[name], one.compute())
    # Shares of unequal size tell a mean over queries from a mean of the processes' means.
    values = ranking.rbo(scores, oracle)
    assert abs((values[:5].mean() + values[5:].mean()) / 2 - values.mean()) > 1e-3


@pytest.mark.parametrize("module", ["evaluation.metrics", "evaluation.calibration", "data.grouping"])
def test_the_examples_of_the_documentation_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"guda_lightning.{module}"))
    assert (results.failed, results.attempted > 0) == (0, True)
