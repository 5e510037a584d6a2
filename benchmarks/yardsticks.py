"""The yardsticks that come with guda: packed from run folders, which ``--remake`` fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import oracles, styles
from benchmarks.stages import Asked, Bench
from benchmarks.tables import machine
from guda_lightning.counterfactuals import RETRAIN, CounterfactualRecord, CounterfactualStore
from guda_lightning.evaluation.yardsticks import pack_run

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Made:
    """A yardstick that can be packed.

    Attributes:
        title: What data and which groups these are.
        bench: The run folder.
        groups: Which groups are retrained.
        images: Where they are named, if they do not come with a library.
        pipeline: The pipeline that is fine-tuned, if one is.
    """

    title: str
    bench: Callable[[Asked], Bench]
    groups: Callable[[Asked], Sequence[str]]
    images: Mapping[str, str] | None = None
    pipeline: Callable[[Asked], Path] | None = None


def _parts(name: str, what: str) -> Made:
    title = f"Handwritten digits of 8 x 8, groups = {what} of each digit at random; two digits are retrained"
    return Made(
        title,
        lambda asked: oracles.of_parts(asked, name, oracles.of_digits(asked)),
        lambda asked: oracles.part_names(asked, name),
    )


YARDSTICKS: Mapping[str, Made] = {
    "digits": Made(
        "Handwritten digits of 8 x 8, groups = the ten digits",
        oracles.of_digits,
        lambda asked: [str(digit) for digit in range(asked.size.classes)],
    ),
    "halves": _parts("halves", "two halves"),
    "tenths": _parts("tenths", "a tenth and the rest"),
    "cifar10": Made(
        "20 000 images of CIFAR-10 at 8 x 8, groups = the ten classes",
        oracles.of_cifar10,
        lambda asked: CLASSES,
        oracles.IMAGES,
    ),
    "styles": Made(
        "Digits in twelve styles by a small Stable Diffusion, groups = the styles, which the prompts of the "
        "queries do not name; six styles are retrained",
        styles.unnamed,
        lambda asked: styles.EVALUATED[: asked.size.kinds],
        pipeline=lambda asked: asked.runs / "styles" / "pipeline",
    ),
}


def run(asked: Asked) -> None:
    """Pack every yardstick whose run folder has a complete oracle; with ``--remake``, complete them first."""
    for name, made in YARDSTICKS.items():
        if made.images is not None and asked.cifar10 is None:
            continue
        bench, groups = made.bench(asked), made.groups(asked)
        if not (asked.remake or bench.run.store.is_dir()):
            print(f"yardsticks: {name} is left out, {bench.run.root} has no oracle: --remake makes it")
            continue
        if asked.remake:
            oracles.with_oracle(bench, groups)
        seeds = complete(bench, groups)
        for seed in seeds:
            oracles.scored(bench, seed, groups)
        if seeds:
            pack(asked, name, made, seeds)
        else:
            print(f"yardsticks: {name} is left out, no oracle seed in {bench.run.root} is complete")


def complete(bench: Bench, groups: Sequence[str]) -> list[int]:
    """Seeds that are retrained without each of the groups."""
    found: dict[int, set[str]] = {}
    for record in _retrained(bench):
        found.setdefault(record.seed, set()).update(record.groups)
    return sorted(seed for seed, those in found.items() if those.issuperset(groups))


def pack(asked: Asked, name: str, made: Made, seeds: Sequence[int]) -> None:
    """Pack one, and say how large it is."""
    bench, beside, places = made.bench(asked), {}, {}
    if (groups := asked.runs / f"{name}.csv").is_file():
        beside["groups.csv"] = groups
        places["data.init_args.groups"] = "groups.csv"
    if made.pipeline is not None:
        beside["pipeline"] = made.pipeline(asked)
        places |= dict.fromkeys(("model.init_args.pretrained", "data.init_args.pretrained"), "pipeline")
    records = [record for record in _retrained(bench) if record.seed in seeds]
    labels = {"fit": "fit", "sample": f"sample --num {asked.size.queries}"}
    labels |= {name: name for s in seeds for name in (f"retrain {s}", f"attribute retrain {s}")}
    packed = pack_run(
        bench.run,
        asked.docs.parent / "yardsticks" / f"{name}.json",
        title=made.title,
        beside=beside,
        places=places,
        images=made.images,
        made={
            "commands": _commands(asked, name, made, seeds),
            "machine": machine(),
            "core_seconds": {name: round(bench.seconds(label), 1) for name, label in labels.items()},
            "models": {
                "count": len(records),
                "network_evaluations": sum(record.network_evaluations for record in records),
            },
        },
    )
    size = packed.card["archive"]["bytes"] / 2**20
    print(f"yardsticks: {packed.archive} written, {len(seeds)} oracle seeds, {size:.1f} MiB")


def _commands(asked: Asked, name: str, made: Made, seeds: Sequence[int]) -> list[str]:
    """What made the run folder, without the places of this machine."""
    places = {str(asked.cifar10): "FILE"}
    places |= {str(path): path.name for path in asked.runs.glob("*.csv")}
    if made.pipeline is not None:
        places[str(made.pipeline(asked))] = "pipeline"
    options = " ".join(places.get(option, option) for option in made.bench(asked).options)
    groups, listed = ",".join(made.groups(asked)), ",".join(map(str, seeds))
    scored = "-c attribute/elbo.yaml --operator retrain"
    return [
        f"guda fit {options}",
        f"guda sample {options} --num {asked.size.queries}",
        f"guda retrain {options} --seeds {listed} --groups {groups}",
        f"guda attribute {options} {scored} --seed {listed} --groups {groups}",
    ]


def _retrained(bench: Bench) -> list[CounterfactualRecord]:
    records = CounterfactualStore(bench.run.store).records()
    return [record for record in records if record.operator == RETRAIN and len(record.groups) == 1]
