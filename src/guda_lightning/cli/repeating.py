"""Repeats what RUN/history says in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from guda_lightning.cli.commands import find
from guda_lightning.cli.inputs import NAMING
from guda_lightning.cli.plan import Plan, stage_of
from guda_lightning.cli.stage import parse
from guda_lightning.errors import DataError
from guda_lightning.storage.files import canonical_json, sha256_json, write_atomic
from guda_lightning.storage.history import Step

if TYPE_CHECKING:
    from guda_lightning.cli.lightning import StageCLI

_ELSEWHERE = ("spread", "wandb")  # options that say where a stage works, and where it reports to
_NAMED = 10  # groups


def repeat(plan: Plan) -> bool:
    """Run everything again that is not done yet; whether this is the first of several processes.

    Raises:
        GudaError: A stage refuses what it finds.
    """
    done = plan.begin()
    cli: StageCLI | None = None
    for number, (name, step) in enumerate(plan.steps.items(), 1):
        if name in done:
            continue
        print(f"replay: {number} of {len(plan.steps)}: guda {step.stage}", flush=True)
        if step.config is None:
            find(step.stage).run(_without_wandb([plan.moved_argument(one, step) for one in step.arguments]))
        else:
            cli = parsed(plan, name, step, plan.into.root / "replay")
            cli.run()
        done.append(name)
        if cli is None or cli.trainer.is_global_zero:
            plan.done(done)
    return cli is None or bool(cli.trainer.is_global_zero)


def refuse_other_data(plan: Plan) -> None:
    """Refuse data that are no longer those that the run was made from, before anything is made.

    Raises:
        DataError: They have changed.
    """
    known = set()
    for name, step in plan.steps.items():
        if step.data is None or step.config is None:
            continue
        identity = sha256_json([step.config["data"], step.data])
        if identity not in known:
            known.add(identity)
            _refuse_other(step.data, _data_today(plan, name, step), step.stage)


def _data_today(plan: Plan, name: str, step: Step) -> dict[str, Any]:
    print(f"replay: reading the data of guda {step.stage}", flush=True)
    with TemporaryDirectory() as folder:  # nothing is written where the data are refused
        data = parsed(plan, name, step, Path(folder)).section("data")
    from guda_lightning.data.hashes import data_record

    assert step.data is not None
    data.take_size(tuple(step.data["input_shape"][-2:]))
    return data_record(data)


def _refuse_other(before: Mapping[str, Any], today: Mapping[str, Any], stage: str) -> None:
    if before == today:
        return
    groups = sorted({*before["groups"], *today["groups"]})
    changed = [name for name in groups if before["groups"].get(name) != today["groups"].get(name)]
    which = ", ".join(changed[:_NAMED]) + ", …" * (len(changed) > _NAMED) or "none"
    found, expected = (
        ", ".join(f"{name} {str(data[name])[:16]}" for name in ("samples", "data_hash", "grouping_hash"))
        for data in (today, before)
    )
    raise DataError(
        f"the training data are not those that guda {stage} worked on",
        found=f"{found}; groups that changed: {which}",
        expected=expected,
        fix="restore them, or say with -c FILE where they lie now",
    )


def parsed(plan: Plan, name: str, step: Step, folder: Path) -> StageCLI:
    """The stage, ready to run in the folder of the replay, with its configuration in another folder."""
    stage, into = stage_of(step.stage), str(plan.into.root)
    assert stage is not None and step.config is not None  # or the plan would have refused it
    names = {name: step.config[name] for name in NAMING if step.config.get(name) is not None}
    others = {key: value for key, value in step.config.items() if key not in (*_ELSEWHERE, *names)}
    config = plan.moved(others, step)
    config["trainer"] = {**config["trainer"], "logger": False}
    path = folder / Path(name).with_suffix(".yaml").name
    write_atomic(path, canonical_json(config, indent=2) + "\n")  # JSON is YAML
    files = [word for file in (path, *plan.configs) for word in ("-c", str(file))]
    return parse(stage, [*files, "--run", into, *_flags(names)])


def _flags(names: Mapping[str, Any]) -> list[str]:
    """Names as flags, which take them as they are; in a configuration ``${x}`` refers to another key."""
    texts = {
        name: value if isinstance(value, str) else canonical_json(value) for name, value in names.items()
    }
    return [word for name, text in texts.items() for word in (f"--{name}", text)]


def _without_wandb(arguments: Sequence[str]) -> list[str]:
    return list(_kept(iter(arguments)))


def _kept(arguments: Iterator[str]) -> Iterator[str]:
    for one in arguments:
        if one == "--wandb":
            next(arguments, None)
        elif not one.startswith("--wandb="):
            yield one
