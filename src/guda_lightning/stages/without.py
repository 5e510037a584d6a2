"""What `guda sample` draws: models without groups, and the queries that their pictures stand beside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from guda_lightning.attribution.counterfactual import kind_of
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.diffusion.adapters import set_own_weights
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.posteriors import PosteriorStore, guided, open_posterior
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.stages.drawing import Drawing
from guda_lightning.storage.files import read_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.stored import RECORD

ALL = "all"  # instead of groups: each of them


@dataclass(frozen=True)
class Counterfactuals:
    """Which counterfactuals of a store.

    Attributes:
        store: Folder of the store.
        operator: How they were made, or the kind of a posterior; None where the store holds one kind.
        seed: Seed that they were made with.
        hparams: Start of the hash of their hyper-parameters; None where there is one.
    """

    store: Path
    operator: str | None
    seed: int
    hparams: str | None


def groups_without(grouping: Grouping, requested: Sequence[str] | str) -> list[str]:
    """The groups to do without, one after the other: the requested ones, or all.

    Raises:
        GroupError: One does not exist, has no samples, or has all.
    """
    every = requested == ALL and ALL not in grouping.names
    return chosen_groups(grouping, None if every else requested)


def drawings_without(
    run: RunFolder,
    full: FullModel,
    data: GroupDataModule,
    groups: Sequence[str],
    noise: Mapping[str, Any],
    chosen: Counterfactuals,
    device: torch.device,
) -> list[Drawing]:
    """What the counterfactuals without some groups are to draw, all of one operator.

    Args:
        run: Where pictures go.
        full: The full model.
        data: The training data with today's groups.
        groups: Which ones, as ``chosen_groups`` names them.
        noise: What identifies the noise.
        chosen: Which counterfactuals.
        device: Where a posterior works.

    Raises:
        StoreError: One is missing, or made from another full model, grouping or schedule; or several fit.
    """
    expect = full.provenance(data.grouping.hash)

    def drawing(operator: str, name: str, weights: str, read: Callable[[], DiffusionModel]) -> Drawing:
        folder = run.without_groups(operator, name)
        unfinished = run.checkpoints(f"sample-{folder.parent.name}-{folder.name}")
        made = {"operator": operator, "counterfactual_seed": chosen.seed, "without": name}
        return Drawing(folder, unfinished, {**noise, **made, "counterfactual": weights}, read)

    store = CounterfactualStore(chosen.store)
    kind = kind_of(store, chosen.operator)
    if kind is not None:
        posterior, record = open_posterior(
            PosteriorStore(chosen.store),
            kind,
            full.model.schedule,
            seed=chosen.seed,
            hparams=chosen.hparams,
            data=data,
            expect=expect,
            device=device,
        )
        away, identity = partial(guided, full.model, posterior), record.weights_hash
        return [
            drawing(kind, name, identity, partial(away, data.grouping.coalition(name))) for name in groups
        ]
    network = copy.deepcopy(full.model.denoiser)
    model = replace(full.model, denoiser=network)

    def read(key: CounterfactualKey) -> DiffusionModel:
        set_own_weights(network, store.load(key, expect=expect)[0], store.path(key))
        return model

    keys = store.select(chosen.operator, chosen.seed, hparams=chosen.hparams, groups=groups)
    weights = {name: store.check(key, expect=expect).weights_hash for name, key in keys.items()}
    return [drawing(key.operator, name, weights[name], partial(read, key)) for name, key in keys.items()]


def number_of_queries(folder: Path, noise: Mapping[str, Any]) -> int:
    """How many queries there are for pictures to stand beside; as many as requested where none were drawn.

    Args:
        folder: RUN/queries.
        noise: What the pictures will be drawn with.

    Raises:
        StoreError: The queries come from other noise, another model or fewer of it than the pictures.
    """
    if not (folder / RECORD).is_file():
        return int(noise["num"])
    drawn = read_json(folder / RECORD).get("config", {})
    count = int(drawn.get("num", 0))
    fixes = {
        "full_hash": "draw with the full model of the queries",
        "steps": f"pass --steps {drawn.get('steps')}",
        "seed": f"pass --seed {drawn.get('seed')}",
        "prompt_guidance": f"pass --prompt_guidance {drawn.get('prompt_guidance')}",
        "num": f"pass --num {count} or less",
    }
    for name, fix in fixes.items():
        if noise[name] > count if name == "num" else noise[name] != drawn.get(name):
            raise StoreError(
                f"the pictures would not stand beside the queries of {folder}",
                found=f"{name} = {noise[name]}",
                expected=f"{name} = {drawn.get(name)}{' or less' if name == 'num' else ''}",
                fix=f"{fix}, or use another --run",
            )
    return count


def refuse_prompts(prompts: Path | None) -> None:
    """Refuse prompts of their own for pictures that stand beside queries.

    Raises:
        ConfigError: Some are given.
    """
    if prompts is not None:
        raise ConfigError(
            "pictures without groups have the prompts of the queries",
            found=f"prompts {prompts}",
            expected="no prompts",
            fix="leave out --prompts, or draw queries from them first",
        )


def refuse_guidance(prompt_guidance: float, datamodule: GroupDataModule) -> None:
    """Refuse guidance by the prompt where there are no prompts.

    Raises:
        ConfigError: It is requested.
    """
    if prompt_guidance != 1 and datamodule.prompts is None:
        raise ConfigError(
            "a model without prompts cannot be guided by them",
            found=f"prompt_guidance {prompt_guidance}",
            expected="1, or a text-to-image model",
            fix="leave out --prompt_guidance",
        )
