"""Repeats what RUN/history says in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.configs import located
from guda_lightning.cli.inputs import NAMING
from guda_lightning.cli.stage import parse
from guda_lightning.errors import ConfigError, DataError, StoreError, did_you_mean
from guda_lightning.storage.config import differences
from guda_lightning.storage.files import (
    atomic_file,
    canonical_json,
    read_json,
    sha256_file,
    sha256_json,
    write_atomic,
)
from guda_lightning.storage.history import Step, moved, steps_of
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.walked import walked

if TYPE_CHECKING:
    from guda_lightning.cli.lightning import StageCLI

_ELSEWHERE = ("spread", "wandb")  # options that say where a stage works, and where it reports to
_NOT_COPIED = ("history", "manifest.json", "replay", "replay.json", "report")
_FORMAT = 1
_NAMED = 10  # groups


@dataclass(frozen=True)
class Plan:
    """What is repeated where.

    Attributes:
        run: The run folder.
        into: The folder of the replay.
        steps: What is repeated, in order, by the names of the files in RUN/history.
        others: What is not repeated.
        configs: Files that win over the recorded configurations.
    """

    run: RunFolder
    into: RunFolder
    steps: Mapping[str, Step]
    others: Mapping[str, Step]
    configs: tuple[str, ...]

    @classmethod
    def of(cls, run: RunFolder, into: RunFolder, stages: str | None, configs: Sequence[str]) -> Plan:
        """What to repeat.

        Args:
            run: The run folder.
            into: The folder of the replay.
            stages: Names of stages, comma-separated; None: all.
            configs: Files that win over the recorded configurations.

        Raises:
            ConfigError: A stage was never run.
            StoreError: Nothing says what was run, or the folder is not fresh.
        """
        steps = steps_of(run)
        repeated = {name: step for name, step in steps.items() if _is_repeatable(step)}
        if not repeated:
            raise StoreError(
                f"{run.root} does not say how it was made",
                found=f"no file in {run.history}",
                expected="what each command was run with, as guda keeps it there",
                fix="repeat the commands that made it: what is complete is skipped, and noted",
            )
        if stages is not None:
            repeated = _chosen(repeated, [one.strip() for one in stages.split(",")])
        others = {name: step for name, step in steps.items() if name not in repeated}
        files = located([word for file in configs for word in ("-c", file)])[1::2]
        plan = cls(run, into, repeated, others, tuple(files))
        plan._refuse_unlike()
        return plan

    @property
    def result(self) -> Path:
        """What was found, and until then what is done."""
        return self.into.root / "replay.json"

    @property
    def made(self) -> frozenset[str]:
        """Files that what is repeated has written."""
        return frozenset(file for step in self.steps.values() for file in step.files)

    @cached_property
    def copied(self) -> Mapping[str, str]:
        """Files of the run folder that the replay starts from, and why."""
        by_others = {file for step in self.others.values() for file in step.files}
        alone, found = not any(map(_is_repeatable, self.others.values())), {}
        fits = any(step.stage == "fit" for step in self.steps.values())
        for name in walked(self.run):
            top = name.partition("/")[0]
            if name in self.made or top in _NOT_COPIED or (fits and top == "full"):
                continue
            if name in by_others:
                found[name] = "copied: no stage that is repeated made it"
            elif not alone or top == "full":
                found[name] = "copied: RUN/history does not say how it was made"
        return found

    def begin(self) -> list[str]:
        """Copy what the replay starts from; returns what is done already, by one that was interrupted."""
        if not self.result.is_file():
            self._keep({"done": [], "copied": False})
        state = read_json(self.result)
        if not state.get("copied"):
            for name in self.copied:
                with atomic_file(self.into.root / name) as temporary:
                    shutil.copy2(self.run.root / name, temporary)
            self._keep({"done": [], "copied": True})
        return list(state.get("done", ()))

    def done(self, names: Sequence[str]) -> None:
        """Keep how far it is."""
        self._keep({"done": list(names), "copied": True})

    def finish(self, found: Mapping[str, Any]) -> None:
        """Keep what was found."""
        self._keep({"done": list(self.steps), "copied": True, "then_and_now": self.unlike(), **found})

    def unlike(self) -> list[str]:
        """In what machine and versions of the replay are others than those of the run, one line each."""
        then = [step.environment for step in self.steps.values()]
        now = [step.environment for step in steps_of(self.into).values()]
        if not then or not now:
            return []
        return [f"{key}: {before} then, {after} now" for key, before, after in differences(then[0], now[0])]

    def moved(self, value: Any, step: Step) -> Any:
        """What a step was told, with the run folder of the replay in place of that of the run."""
        into = str(self.into.root)
        return moved(moved(value, step.run, into), str(self.run.root.resolve()), into)

    def moved_argument(self, argument: str, step: Step) -> str:
        """``moved`` of one argument, which may be ``--option=value``."""
        option, given, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        return f"{option}{given}{self.moved(value, step)}"

    def _keep(self, state: Mapping[str, Any]) -> None:
        value = {**state, "format": _FORMAT, "of": str(self.run.root.resolve()), "steps": self._identity}
        write_atomic(self.result, canonical_json(value, indent=1) + "\n")

    @cached_property
    def _identity(self) -> str:
        """Hash of what is repeated."""
        files = list(map(sha256_file, self.configs))
        return sha256_json([files, [[name, step.identity] for name, step in self.steps.items()]])

    def _refuse_unlike(self) -> None:
        """Refuse a folder in which something else lies.

        Raises:
            StoreError: It is neither fresh nor that of the same replay.
        """
        root = self.into.root
        if root.resolve().is_relative_to(self.run.root.resolve()):
            raise StoreError(
                f"{root} is no folder for this replay",
                found=f"a folder in {self.run.root}, which is compared with it",
                expected="a folder outside of the run folder",
                fix="pass another --into",
            )
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return
        begun = read_json(self.result) if self.result.is_file() else {}
        if begun.get("of") == str(self.run.root.resolve()) and begun.get("steps") == self._identity:
            return
        raise StoreError(
            f"{root} is no folder for this replay",
            found="a replay of something else" if begun else "a file" if root.is_file() else "other files",
            expected="a folder that is not there yet, or that of the same replay, which then goes on",
            fix="pass another --into, or remove it",
        )


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
    assert step.config is not None
    into = str(plan.into.root)
    names = {name: step.config[name] for name in NAMING if step.config.get(name) is not None}
    others = {key: value for key, value in step.config.items() if key not in (*_ELSEWHERE, *names)}
    config = plan.moved(others, step)
    config["trainer"] = {**config["trainer"], "logger": False}
    path = folder / Path(name).with_suffix(".yaml").name
    write_atomic(path, canonical_json(config, indent=2) + "\n")  # JSON is YAML
    files = [word for file in (path, *plan.configs) for word in ("-c", str(file))]
    return parse(_stage(step), [*files, "--run", into, *_flags(names)])


def _flags(names: Mapping[str, Any]) -> list[str]:
    """Names as flags, which take them as they are; in a configuration ``${x}`` refers to another key."""
    texts = {
        name: value if isinstance(value, str) else canonical_json(value) for name, value in names.items()
    }
    return [word for name, text in texts.items() for word in (f"--{name}", text)]


def _stage(step: Step) -> Stage:
    command = find(step.stage)
    if not isinstance(command, Stage):
        command = import_module(f"guda_lightning.cli.{command.module}").as_stage(command)
    assert isinstance(command, Stage)
    return command


def _is_repeatable(step: Step) -> bool:
    """Whether a command says all that it works on; what comes with a yardstick is no work of the run."""
    if step.config is not None:
        return True
    return step.stage == "evaluate" and not any(one.startswith("--yardstick") for one in step.arguments)


def _without_wandb(arguments: Sequence[str]) -> list[str]:
    return list(_kept(iter(arguments)))


def _kept(arguments: Iterator[str]) -> Iterator[str]:
    for one in arguments:
        if one == "--wandb":
            next(arguments, None)
        elif not one.startswith("--wandb="):
            yield one


def _chosen(steps: Mapping[str, Step], stages: Sequence[str]) -> dict[str, Step]:
    """The steps of some stages.

    Raises:
        ConfigError: One was never run.
    """
    known = list(dict.fromkeys(step.stage for step in steps.values()))
    for stage in stages:
        if stage not in known:
            raise ConfigError(
                f"--stages names a stage that this run has not seen: {stage}",
                found=stage,
                expected=", ".join(known),
                fix=did_you_mean(stage, known, "name some of these, comma-separated"),
            )
    return {name: step for name, step in steps.items() if step.stage in stages}
