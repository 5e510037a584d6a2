"""Styles of a small Stable Diffusion: anchors and adapters against fine-tuning without each style."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd

from benchmarks import figures, small_pipeline
from benchmarks.stages import Asked, Bench
from benchmarks.tables import with_interval, write_table
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import PromptTemplate, load_queries
from guda_lightning.data.sources.styles import STYLES
from guda_lightning.report.pictures import side_by_side
from guda_lightning.storage.files import write_atomic
from guda_lightning.types import Weighting

EVALUATED = tuple(STYLES)[:6]
STRATEGIES = ("weighted_style", "uniform_style", "style_removed", "matched_retain")
RANKS = (1, 4, 16)
SHOWN = ("top1", "ndcg@3", "spearman")
NOTES = (
    "{each} queries of each of {styles} of {all} styles; core seconds of training and of scoring 100 "
    "evaluations a query and model, those of the oracle of one seed. The pipeline's own training, the same "
    "for all, is not counted. Agreement with the mean of the other oracle seeds, each left out in turn, with "
    "95 % intervals over queries and seeds."
)


def run(asked: Asked) -> None:
    """Train the pipeline, fine-tune it on all styles and without each, unlearn each, and compare."""
    folder = asked.runs / "styles"
    small_pipeline.make(folder, _sizes(asked))
    bench = _bench(asked, "run", folder / "pipeline", asked.seeds or 2)
    bench.stage("fit")
    evaluated = EVALUATED[: asked.size.kinds]
    groups = ("--groups", ",".join(evaluated))
    each = max(1, asked.size.queries // 10)
    prompts = _prompts(folder / "prompts.txt", evaluated, each)
    bench.stage("sample", "--num", str(each * len(evaluated)), "--steps", "100", "--prompts", prompts)
    for seed in range(bench.seeds):
        bench.stage("retrain", "--seeds", str(seed), *groups, label=f"retrain {seed}")
        _score(bench, "retrain", f"retrain {seed}", *groups, "--seed", str(seed))
    clip = ("--objective.init_args.clip", str(folder / "clip"))
    for strategy in STRATEGIES[: asked.size.kinds]:
        options = clip if strategy == "weighted_style" else ()
        bench.stage("unlearn", "-c", f"unlearn/{strategy}.yaml", *options, *groups, label=f"make {strategy}")
        _score(bench, strategy, strategy, *groups, "--hparams", _hparams(bench, strategy, None))
    quiet = ("--trainer.callbacks", "[]")
    bench.stage("unlearn", "-c", "unlearn/retrack.yaml", *quiet, *groups, label="make retrack")
    _score(bench, "retrack", "retrack", *groups)
    for rank in RANKS[: asked.size.kinds]:
        adapter = ("--lora.rank", str(rank), "--optimizer.init_args.lr", "3.0e-3")
        label = f"weighted_style rank{rank}"
        options = ("-c", "unlearn/weighted_style.yaml", *clip, *adapter, *groups)
        bench.stage("unlearn", *options, label=f"make {label}")
        chosen = _hparams(bench, "weighted_style", rank)
        named = ("--hparams", chosen, "--name", f"rank{rank}")
        _score(bench, "weighted_style", label, *groups, *named)
    some = ("--attributor.init_args.groups", f"[{','.join(evaluated)}]")
    bench.stage("attribute", "-c", "attribute/similarity.yaml", *some, label="attribute similarity")
    for operator in ("retrain", STRATEGIES[0]):
        chosen = _hparams(bench, operator, None)
        _pictures(asked, bench, evaluated, operator, chosen)
    if code := main(["evaluate", str(bench.run.root)]):
        raise SystemExit(code)
    notes = NOTES.format(each=each, styles=len(evaluated), all=len(STYLES))
    rows = _table(bench)
    write_table(asked.docs, "styles", asked.command("styles"), rows, notes)
    figures.dots(
        asked.docs,
        _dots(bench),
        "styles",
        "Styles of a small Stable Diffusion",
        f"agreement with fine-tuning without each of {len(evaluated)} styles",
    )


def unnamed(asked: Asked) -> Bench:
    """The run folder of a yardstick: half of the training prompts name no style, and no query's does.

    So prompts do not determine the groups, as they do above, where every method ranks the named style first.
    """
    folder = asked.runs / "styles"
    bench = _bench(asked, "unnamed", folder / "pipeline", asked.seeds or 2, "0.5")
    if asked.remake and not bench.run.queries.exists():
        small_pipeline.make(folder, _sizes(asked))
        bench.stage("fit")
        dice, template = random.Random(0), PromptTemplate()
        lines = [template.compose(str(dice.randrange(10)), ()) for _ in range(asked.size.queries)]
        write_atomic(folder / "unnamed.txt", "\n".join(lines) + "\n")
        drawn = ("--num", str(asked.size.queries), "--prompts", str(folder / "unnamed.txt"))
        bench.stage("sample", "--steps", "100", *drawn, label="sample")
    return bench


def _bench(asked: Asked, name: str, pipeline: Path, seeds: int, named: str = "1") -> Bench:
    """The run folder of the fine-tuned pipeline, some of whose training prompts name the style."""
    source = "--data.init_args.source.init_args"
    return Bench(
        asked.runs / "styles" / name,
        *("-c", "styles.yaml", "--pretrained", str(pipeline), "--trainer.logger", "false"),
        *(f"{source}.limit", str(asked.size.styled), f"{source}.named", named),
        seeds=seeds,
        size=replace(asked.size, network=()),
    )


def _sizes(asked: Asked) -> small_pipeline.Sizes:
    if asked.size.pipeline is None:
        return small_pipeline.Sizes(asked.size.styled)
    return small_pipeline.Sizes(asked.size.styled, *[asked.size.pipeline] * 3)


def _pictures(asked: Asked, bench: Bench, styles: Sequence[str], operator: str, hparams: str) -> None:
    """One query of each style, drawn with all of them and without each, as one picture."""
    count, names = str(len(styles)), ",".join(styles)
    of = ("--without", names, "--operator", operator, "--hparams", hparams)
    bench.stage("sample", "--num", count, "--steps", "100", *of, label=f"sample without {operator}")
    folders = {"all styles": bench.run.queries}
    folders |= {f"no {style}": bench.run.without_groups(operator, style) for style in styles}
    rows = range(len(styles))
    shape = (3, small_pipeline.SIZE, small_pipeline.SIZE)
    drawn = {title: load_queries(folder, shape).take(rows) for title, folder in folders.items()}
    (asked.docs / "images").mkdir(exist_ok=True)
    named = {t: replace(q, ids=tuple(styles)) for t, q in drawn.items()}
    side_by_side(named).save(asked.docs / "images" / f"styles_{operator}.png")


def _score(bench: Bench, operator: str, label: str, *options: str) -> None:
    scored = ("-c", "attribute/elbo.yaml", "--operator", operator)
    bench.stage("attribute", *scored, *options, label=f"attribute {label}")


def _prompts(path: Path, styles: Sequence[str], each: int) -> str:
    """A file of prompts: every style in turn, with any digit and any three of its words."""
    dice, template = random.Random(0), PromptTemplate()
    lines = [
        template.compose(str(dice.randrange(10)), dice.sample(STYLES[style][1], 3))
        for _ in range(each)
        for style in styles
    ]
    write_atomic(path, "\n".join(lines) + "\n")
    return str(path)


def _hparams(bench: Bench, operator: str, rank: int | None) -> str:
    """The start of the hash of the hyper-parameters of an operator's adapters, or of its whole models."""
    found = {
        record.hparams_hash
        for record in CounterfactualStore(bench.run.store).records()
        if record.operator == operator and record.hparams.get("lora", {}).get("rank") == rank
    }
    (digest,) = found
    return digest[:12]


def _label(method: str) -> str:
    """The label of the stages that made a table of ``guda evaluate``."""
    operator, _, name = method.partition("-0")
    return f"{operator} {name[1:]}" if name else operator


def _table(bench: Bench) -> list[dict[str, object]]:
    found = _agreement(bench)
    seeds = range(bench.seeds)
    oracle = (
        sum(bench.seconds(f"retrain {seed}", f"attribute retrain {seed}") for seed in seeds) / bench.seeds
    )
    rows = []
    for method in found.method.unique():
        label = "another oracle seed" if method == "oracle" else _label(method)
        own = bench.seconds(f"make {label}", f"attribute {label}")
        cost = oracle if method == "oracle" else own
        row: dict[str, object] = {
            "method": label,
            "core seconds": f"{cost:.0f}",
            "oracle / method": f"{oracle / cost:.1f}",
            "MB a group": f"{_megabytes(bench, method):.2f}",
        }
        for weighting in get_args(Weighting):
            chosen = found[(found.method == method) & (found.weighting == weighting)]
            row |= {f"{metric} {weighting}": with_interval(chosen, metric) for metric in SHOWN}
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["top1 uniform"]), reverse=True)


def _megabytes(bench: Bench, method: str) -> float:
    """Size of one counterfactual's weights on disk."""
    operator, _, rank = _label(method).partition(" rank")
    operator = "retrain" if method == "oracle" else operator
    wanted = int(rank) if rank else None
    store = CounterfactualStore(bench.run.store)
    for record in store.records():
        if record.operator == operator and record.hparams.get("lora", {}).get("rank") == wanted:
            (name,) = record.files
            return (store.path(record.key) / name).stat().st_size / 1e6
    return 0.0


def _dots(bench: Bench) -> list[dict[str, object]]:
    """Rows of a figure: every method's agreement under every weighting."""
    found = _agreement(bench)
    return [
        {
            "setting": {"top1": "top-1", "ndcg@3": "NDCG@3"}[row.metric],
            "recipe": "another oracle seed" if row.method == "oracle" else _label(row.method),
            "weighting": row.weighting,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "chance": row.chance,
        }
        for row in found[found.metric.isin(["top1", "ndcg@3"])].itertuples()
    ]


def _agreement(bench: Bench) -> pd.DataFrame:
    """What ``guda evaluate`` found: each oracle seed left out in turn, all draws."""
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    return found[(found.noise == "all draws") & (found.yardstick == "other seeds")]
