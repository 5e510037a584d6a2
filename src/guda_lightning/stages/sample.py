"""``guda sample``: queries drawn from the full model, and the same noise without groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from guda_lightning.attribution import Encoder
from guda_lightning.data import GroupDataModule, QueryFolder, read_prompts
from guda_lightning.diffusion import sampler
from guda_lightning.distributed.strategies import agreed
from guda_lightning.errors import check_range
from guda_lightning.makers.costs import say, say_skipped
from guda_lightning.report.charts import MAX_PICTURE_GROUPS, MAX_PICTURE_QUERIES
from guda_lightning.report.logged import log_section, log_without
from guda_lightning.report.radius_section import radius_of
from guda_lightning.report.section import Section
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.report.without_section import drawn_beside
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import at_least_one, chosen_groups, refuse_choices
from guda_lightning.stages.drawing import Drawing, ImageSampler
from guda_lightning.stages.radius import measure, refuse_other_columns
from guda_lightning.stages.without import (
    Counterfactuals,
    drawings_without,
    number_of_queries,
    refuse_guidance,
    refuse_prompts,
)
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.locks import locked
from guda_lightning.storage.weights_record import RECORD

_MOST = 10_000_000  # images of a run folder: their ids are held in memory


def sample(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    num: int = 64,
    steps: int = 100,
    batch_size: int = 64,
    seed: int = 0,
    prompts: Path | None = None,
    prompt_guidance: float = 1.0,
    full: Path | None = None,
    without: list[str] | str | None = None,
    operator: str | None = None,
    counterfactual_seed: int | None = None,
    hparams: str | None = None,
    encoder: Encoder | None = None,
) -> list[Path]:
    """Draw queries from the full model into RUN/queries, or the same noise without groups, one PNG each.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data, for the shape of an image.
        num: How many.
        steps: Denoising steps.
        batch_size: Images at a time; changes no image.
        seed: Seed of the images; image i is the same whatever ``num`` is.
        prompts: Prompts of a text-to-image model, in turn: a .txt file with one a line, or .jsonl or .csv
            with a column ``prompt`` or ``text``. Left out, those of training samples; without groups, those
            of the queries.
        prompt_guidance: Strength of classifier-free guidance by the prompt; 1 is the model itself.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        without: Draw from counterfactuals instead: without each of these groups, such as ``3,7`` or,
            removed together, ``3+7``, or ``all``. Image i comes from the noise of query i, into
            RUN/without/OPERATOR/GROUPS.
        operator: Which counterfactuals of RUN/store, by their objective's name, such as ``guided``,
            ``retrain``, or the kind of a posterior, such as ``guidance``; may be left out where the store
            holds those of one kind.
        counterfactual_seed: Seed that the counterfactuals were made with; 0 if left out.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        encoder: Measures how far a feature of the pictures moves without the groups, beside the pixels.

    Returns:
        The folders of the images: RUN/queries, or one for each of the groups.
    """
    for name, value in (("num", num), ("steps", steps), ("batch_size", batch_size)):
        at_least_one(name, value)
    check_range("num", num, le=_MOST, fix="draw fewer at a time, into several run folders")
    run, source = trainer.run_folder, trainer.open_full(full, model, datamodule)
    noise: dict[str, Any] = {"full_hash": source.hash, "num": num, "steps": steps, "seed": seed}
    noise["prompt_guidance"] = prompt_guidance
    refuse_guidance(prompt_guidance, datamodule)
    if without is None:
        options: dict[str, Any] = {
            "operator": operator,
            "counterfactual_seed": counterfactual_seed,
            "hparams": hparams,
            "encoder": None if encoder is None else encoder.name,
        }
        advice = "groups, or none of these options", "pass --without GROUPS"
        refuse_choices("the full model is drawn from", *advice, **options)
        queries, texts = num, None if prompts is None else tuple(read_prompts(prompts))
    else:
        refuse_prompts(prompts)
        queries, texts = number_of_queries(run.queries, noise), None
        if (run.queries / RECORD).is_file():
            texts = QueryFolder(run.queries, datamodule.image_shape).prompts
    drawn = datamodule.drawn(num, source.model.conditional, texts)
    if drawn.prompts is not None:
        noise["prompts"] = sha256_json(drawn.prompts)
    if without is None:
        drawings = [Drawing(run.queries, run.checkpoints("sample"), noise, lambda: source.model)]
    else:
        chosen = Counterfactuals(run.store, operator, counterfactual_seed or 0, hparams)
        groups, device = chosen_groups(datamodule.grouping, without), trainer.strategy.root_device
        drawings = drawings_without(run, source, datamodule, groups, noise, chosen, device)
    left = [drawing for drawing in drawings if not drawing.complete]
    for drawing in drawings:
        if drawing not in left:
            discard(drawing.unfinished)
    _say_complete(drawings, left)
    if any(drawing.name in datamodule.grouping.names for drawing in left):
        refuse_other_columns(run, drawings[0], encoder)
    ids = tuple(f"sample-{index:0{len(str(queries - 1))}d}" for index in range(num))
    images = ImageSampler(datamodule, source.scheduler, replace(drawn, ids=ids), batch_size, trainer)
    if left:
        sampler(source.model, source.scheduler, steps)  # refused before anything is written
        images.say_cost(left)
    for number in agreed(trainer, [drawings.index(one) for one in left], work=bool(left)):
        folder = drawings[number].folder
        drew = images.draw(drawings[number])
        say(
            f"sample: {num} images in {folder}"
            if drew
            else f"sample: {folder} made by another command meanwhile, skipped"
        )
    if without is not None and trainer.is_global_zero:
        with locked(run.root, run.distances(drawings[0].config["operator"])):  # one table for all groups
            _measure(trainer, drawings, datamodule, encoder, bool(left))
    return [drawing.folder for drawing in drawings]


def _say_complete(drawings: Sequence[Drawing], left: Sequence[Drawing]) -> None:
    complete = [drawing for drawing in drawings if drawing not in left]
    if complete and complete[0].name:
        say_skipped("sample", [drawing.name for drawing in complete])
    elif complete:
        say(f"sample: {complete[0].folder} is complete, skipped")


def _measure(
    trainer: StageTrainer,
    drawings: Sequence[Drawing],
    data: GroupDataModule,
    encoder: Encoder | None,
    drawn: bool,
) -> None:
    """Measure how far the pictures move; say and log what is new."""
    run, shape, config = trainer.run_folder, data.image_shape, drawings[0].config
    section = None
    if measure(trainer, drawings[0], data, encoder):
        found = drawn_beside(run, None, shape)
        section = radius_of(run, config["operator"], found, config["grouping_hash"])
    if section is not None:
        say(f"sample: {section.lines[0]}")
    if drawn or section is not None:
        _log(trainer, drawings, shape, section)


def _log(
    trainer: StageTrainer, drawings: Sequence[Drawing], shape: tuple[int, int, int], section: Section | None
) -> None:
    """Log the first pictures of every group beside the queries, as one picture, and how far they moved."""
    run, config = trainer.run_folder, drawings[0].config
    folders = {"full model": run.queries} if (run.queries / RECORD).is_file() else {}
    folders |= {f"without {one.name}": one.folder for one in drawings[:MAX_PICTURE_GROUPS]}
    name = f"sample {config['operator']}-{config['counterfactual_seed']}"
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, run.name, "sample", name)
        for logger in loggers:
            logger.log_hyperparams({"drawings": [dict(one.config) for one in drawings]})
        if loggers:
            rows = range(min(MAX_PICTURE_QUERIES, config["num"]))
            shown = {title: QueryFolder(folder, shape).load(rows) for title, folder in folders.items()}
            log_without(loggers, shown, config)
        if section is not None:
            log_section(loggers, section, {"operator": config["operator"]})
