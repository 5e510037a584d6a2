"""``guda balance``: as many images for every group, each attributed back to the group it was drawn for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import LightningModule

from guda_lightning.attribution import Attributor, CounterfactualAttributor, PixelSimilarity
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, sampler
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import start_processes
from guda_lightning.errors import GroupError, check_range
from guda_lightning.makers.costs import evaluation_seconds, is_timed, say, say_cost
from guda_lightning.makers.locking import locked_by, of_rank_zero
from guda_lightning.posteriors import GUIDANCE, KINDS
from guda_lightning.report.balance_section import (
    RECORD,
    BalancedGroup,
    balance_lines,
    read_groups,
    section_of,
)
from guda_lightning.report.logged import log_section
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.scores import Scoring
from guda_lightning.stages.attributed_back import AttributedBack, refuse_no_rival, rivals_of
from guda_lightning.stages.balanced_set import refuse_unlike, summary, write_set
from guda_lightning.stages.balancing import Balancing
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import at_least_one, chosen_groups
from guda_lightning.stages.drawing import ImageSampler
from guda_lightning.stages.steering import models_of_groups
from guda_lightning.stages.without import Counterfactuals, refuse_guidance
from guda_lightning.storage.config import refuse_other_config
from guda_lightning.storage.files import slug
from guda_lightning.storage.foreign import refuse_foreign
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.sealed import folder_record, remake
from guda_lightning.storage.seals import refuse_damaged_folder

_MOST = 1_000_000  # images of a group: its ids are held in memory


def balance(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    num: int = 100,
    groups: list[str] | str | None = None,
    steps: int = 100,
    batch_size: int = 64,
    seed: int = 0,
    operator: str = GUIDANCE,
    counterfactual_seed: int = 0,
    hparams: str | None = None,
    attributor: Attributor | None = None,
    scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
    least: float = 0.9,
    prompt_guidance: float = 1.0,
    full: Path | None = None,
) -> Path:
    """Draw as many images for every group, and keep those that are attributed to it.

    Of the first images of every group, ``least`` must lead with it. Those that do not are left out and
    counted, and more are drawn in their place.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        num: Images of every group.
        groups: Names of the groups, such as ``3,7``; all that have samples, if left out.
        steps: Denoising steps.
        batch_size: Images at a time; changes no image.
        seed: Seed of the images; a group's image i is the same whatever ``num`` and ``groups`` are.
        operator: The kind of a posterior, which steers the full model towards each group, such as
            ``guidance``; or the operator of RUN/store, such as ``finetune``, by which all other groups were
            unlearned together.
        counterfactual_seed: Seed of the posterior or of the unlearning.
        hparams: Start of the hash of its hyper-parameters, where the store holds several kinds.
        attributor: Says which group images come from, such as PixelSimilarity; left out, the guidance of
            RUN/store.
        scoring: Timesteps, draws, seed, batch size and precision of that guidance.
        least: Share of the first ``num`` images of every group that must lead with it.
        prompt_guidance: Strength of classifier-free guidance by the prompt; 1 is the model itself.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.

    Returns:
        RUN/balanced/OPERATOR.
    """
    for name, value in (("num", num), ("steps", steps), ("batch_size", batch_size)):
        at_least_one(name, value)
    check_range("num", num, le=_MOST, fix="draw fewer at a time, into several run folders")
    check_range("least", least, ge=0, le=1, fix="take the usual 0.9")
    refuse_guidance(prompt_guidance, datamodule)
    names = single_groups(datamodule.grouping, groups)
    run, source = trainer.run_folder, trainer.open_full(full, model, datamodule)
    chosen = Counterfactuals(run.store, operator, counterfactual_seed, hparams)
    sampler(source.model, source.scheduler, steps)  # refuses steps that there are not
    models = models_of_groups(source, datamodule, names, chosen, trainer.strategy.root_device)
    start_processes(trainer)
    work = run.checkpoints(f"balance-{slug(operator)}")
    made_from = counterfactual_seed if operator in KINDS else 0
    back = partial(AttributedBack.of, full=source, data=datamodule, trainer=trainer, folder=work / "scores")
    default = CounterfactualAttributor(None, GUIDANCE, scoring, seed=made_from)
    judge, pixels = back(attributor or default), back(PixelSimilarity(top=1))
    rivals = rivals_of(datamodule.grouping, judge.attributor.groups)
    refuse_no_rival(rivals, names)
    noise: dict[str, Any] = {"full_hash": source.hash, "steps": steps, "seed": seed}
    noise["prompt_guidance"] = prompt_guidance
    config = {
        **noise,
        "num": num,
        "operator": operator,
        "grouping_hash": datamodule.grouping.hash,
        "judge": judge.record(names[0]),
        "models": {name: one.identity for name, one in models.items()},
    }
    folder = run.balanced_by(operator)
    place = folder / RECORD
    ranks = Ranks.of(trainer)
    with locked_by(ranks, run, folder):
        if of_rank_zero(ranks, place.is_file):
            refuse_other_config(folder, config)
            refuse_damaged_folder(folder, remake(folder))
            refuse_unlike(read_groups(folder_record(folder)), least, folder)
            if ranks.rank == 0:  # of a command that was killed just before its end
                discard(work)
            say(f"balance: {folder} is complete, skipped")
            return folder
        refuse_foreign(folder, "guda balance", "use another --run", RECORD)
        images = ImageSampler(
            datamodule, source.scheduler, judge.training_images(names[0]), batch_size, trainer
        )
        balancing = Balancing(models, noise, num, least, rivals, images, judge, pixels, work)
        _say_cost(balancing, source.model)
        rows, found = dict[str, pd.DataFrame](), list[BalancedGroup]()
        for name in names:
            rows[name] = balancing.fill(name)
            found.append(summary(datamodule.grouping, name, rows[name], balancing.training(name), num))
            say(_line(found[-1]))
        refuse_unlike(found, least, work)
        record = {
            "config": config,
            "least": least,
            "judge": {"method": judge.attributor.method, "weighting": balancing.weighting},
            "groups": [one.to_json() for one in found],
        }
        ranks.on_rank_zero(partial(_write, trainer, folder, rows, found, record))
        if ranks.rank == 0:
            discard(work)
        say("\n".join(f"balance: {line}" for line in balance_lines(found, record)))
        say(f"balance: {folder} written; `guda report {run.root}` shows it on the page")
        return folder


def single_groups(grouping: Grouping, requested: object) -> list[str]:
    """The groups to draw for, one by one.

    Raises:
        GroupError: One does not exist, has no samples or all of them, or is several groups together.
    """
    names = chosen_groups(grouping, requested)
    joint = [name for name in names if name not in grouping.names]
    if joint:
        raise GroupError(
            "images are drawn for groups one by one",
            found=joint[0],
            expected=f"one of {len(grouping)} groups",
            fix=f"pass --groups {','.join(grouping.coalition(joint[0]))}",
        )
    return names


def _say_cost(balancing: Balancing, full: DiffusionModel) -> None:
    """Say what is drawn already, and what the rest will cost at least."""
    sampler, judge = balancing.sampler, balancing.judge
    names, steps = list(balancing.models), balancing.config["steps"]
    left = [count for name in names if (count := balancing.undrawn(name))]
    if len(left) < len(names):
        say(f"balance: the first images of {len(names) - len(left)} of {len(names)} groups are drawn already")
    scored = balancing.unscored()
    if not left and not scored:
        return
    evaluations = round(judge.evaluations(judge.training_images(names[0])) * scored)
    passes = 1 if balancing.config["prompt_guidance"] == 1 else 2  # with the prompt, and without
    seconds = None
    if is_timed(sampler.trainer):
        steered, device = balancing.models[names[0]].read(), sampler.trainer.strategy.root_device
        drawing, scoring = (
            evaluation_seconds(network, judge.data, sampler.batch_size, device) for network in (steered, full)
        )
        seconds = drawing * passes * steps * sum(left) + scoring * evaluations
        seconds /= sampler.trainer.world_size
    say_cost(
        f"balance: {sum(left)} images of {len(left)} groups x {steps} steps, and {evaluations} network "
        "evaluations to attribute them",
        seconds,
    )


def _line(group: BalancedGroup) -> str:
    return (
        f"balance: {group.name}: {group.leading} of the first {group.checked} lead with it, {group.kept} of "
        f"{group.drawn} kept"
    )


def _write(
    trainer: StageTrainer,
    folder: Path,
    rows: dict[str, pd.DataFrame],
    found: list[BalancedGroup],
    record: dict[str, Any],
) -> None:
    write_set(folder, rows, found, record)
    name = f"balance {record['config']['operator']}"
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, trainer.run_folder.name, "balance", name)
        if loggers:
            log_section(loggers, section_of([folder]), record["config"])
