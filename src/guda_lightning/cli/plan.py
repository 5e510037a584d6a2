"""What of RUN/history a replay repeats, and the folder that it makes it in."""

from __future__ import annotations

import shutil
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from guda_lightning.cli.commands import COMMANDS, Stage
from guda_lightning.cli.configs import located
from guda_lightning.errors import ConfigError, StoreError, did_you_mean
from guda_lightning.storage.config import differences
from guda_lightning.storage.environment import code
from guda_lightning.storage.files import (
    atomic_file,
    canonical_json,
    read_json,
    sha256_file,
    sha256_json,
    write_atomic,
)
from guda_lightning.storage.history import Step, is_result, moved, steps_of
from guda_lightning.storage.provenance import versions
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.schema import schema_of, violations
from guda_lightning.storage.walked import walked

_FORMAT = 1


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
            StoreError: Nothing says what was run so that it can be repeated, or the folder is not fresh.
        """
        steps = steps_of(run)
        standing = _standing(steps, walked(run))
        repeated = {name: step for name, step in standing.items() if _is_repeatable(step)}
        if not repeated:
            alone = f"{run.history} with {', '.join(steps)} alone, which works on more than this run"
            raise StoreError(
                f"{run.root} does not say how it was made",
                found=alone if steps else f"no file in {run.history}",
                expected="what each command was run with, as guda keeps it there",
                fix="repeat the commands that made it: what is complete is skipped, and noted",
            )
        if stages is not None:
            repeated = _chosen(repeated, [one.strip() for one in stages.split(",")])
        for name, step in repeated.items():
            _refuse_unrepeatable(run.history / name, step)
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
            if name in self.made or not is_result(name) or (fits and top == "full"):
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
        """Hash of what is repeated, and of the code that does so: what it shows, it shows of today's."""
        files = list(map(sha256_file, self.configs))
        by = [code()["sha256"], versions()]
        return sha256_json([files, [[name, step.identity] for name, step in self.steps.items()], by])

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
        others = "a file" if root.is_file() else "other files"
        raise StoreError(
            f"{root} is no folder for this replay",
            found="a replay of something else, or by other code" if begun else others,
            expected="a folder that is not there yet, or that of the same replay, which then goes on",
            fix="pass another --into, or remove it",
        )


def stage_of(name: str) -> Stage | None:
    """The stage of a command, also of one whose module makes a stage of it; None: it is none."""
    command = next((one for one in COMMANDS if one.name == name), None)
    if command is None or isinstance(command, Stage):
        return command
    as_stage = getattr(import_module(f"guda_lightning.cli.{command.module}"), "as_stage", None)
    stage: Stage | None = None if as_stage is None else as_stage(command)
    return stage


def _is_repeatable(step: Step) -> bool:
    """Whether a command says all that it works on; what comes with a yardstick is no work of the run."""
    if step.config is not None:
        return True
    return step.stage == "evaluate" and not any(one.startswith("--yardstick") for one in step.arguments)


def _standing(steps: dict[str, Step], there: Container[str]) -> dict[str, Step]:
    """The steps whose results still stand.

    Without those whose files later commands have written again in another way: they would stand in the way
    of these; and without all that was done with a full model that was fitted in another way since.

    Args:
        steps: All of them.
        there: The files of the run folder.
    """
    standing: dict[str, Step] = {}
    since = 0  # how many stand from the first fit of the present model on
    for name, step in reversed(steps.items()):
        others = [
            one for one in standing.values() if one.stage == step.stage and one.identity != step.identity
        ]
        again = {file for one in others for file in one.files}.intersection(step.files)
        left = {file for file in step.files if file in there}
        replaced = left <= again and not again.isdisjoint(step.files)
        if replaced and step.stage == "fit":
            standing = dict(list(standing.items())[:since])
            break
        if not replaced:
            standing[name] = step
        if step.stage == "fit":
            since = len(standing)
    return dict(reversed(standing.items()))


def _refuse_unrepeatable(path: Path, step: Step) -> None:
    """Refuse what no command has noted, though its file may be whole.

    Raises:
        StoreError: It is of no stage, lacks a section, or says of its data something else than their hashes.
    """
    if step.config is None:
        return
    schema, sections = schema_of(), ("trainer",) if step.data is None else ("trainer", "data")
    of_data = {**schema["properties"]["data"]["items"], "$defs": schema["$defs"]}
    lacking = [name for name in sections if not isinstance(step.config.get(name), Mapping)]
    wrong = [] if step.data is None else violations(step.data, of_data)
    if stage_of(step.stage) is None:
        stages = (one.name for one in COMMANDS if stage_of(one.name) is not None)
        found, expected = f"a configuration of guda {step.stage}", f"that of a stage: {', '.join(stages)}"
    elif lacking:
        found, expected = f"a configuration without {', '.join(lacking)}", f"one with {', '.join(sections)}"
    elif wrong:
        found, expected = f"data: {wrong[0]}", "hashes of the data and of each of their groups"
    else:
        return
    raise StoreError(
        f"{path} does not say what was run",
        found=found,
        expected=expected,
        fix="restore the file, or use the version of guda-lightning that wrote it",
    )


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
