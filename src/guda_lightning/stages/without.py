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
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.diffusion.adapters import set_own_weights
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.posteriors import PosteriorStore, StoredPosterior, guided, open_posterior
from guda_lightning.stages.drawing import Drawing
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import folder_record
from guda_lightning.storage.weights_record import RECORD


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


@dataclass(frozen=True)
class StoredModel:
    """A model that follows from a store.

    Attributes:
        operator: How it was made, or the kind of its posterior.
        identity: Hash of its weights, or of the posterior's.
        read: Reads it; it may share its network with the one that was read before.
    """

    operator: str
    identity: str
    read: Callable[[], DiffusionModel]


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

    def drawing(name: str, model: StoredModel) -> Drawing:
        folder = run.without_groups(model.operator, name)
        unfinished = run.checkpoints(f"sample-{folder.parent.name}-{folder.name}")
        made = {"operator": model.operator, "counterfactual_seed": chosen.seed, "without": name}
        made["grouping_hash"] = data.grouping.hash
        return Drawing(folder, unfinished, {**noise, **made, "counterfactual": model.identity}, model.read)

    kind = kind_of(CounterfactualStore(chosen.store), chosen.operator)
    if kind is None:
        models = stored_networks(full, data, groups, chosen)
    else:
        posterior, record = stored_posterior(full, data, kind, chosen, device)
        away, identity = partial(guided, full.model, posterior), record.weights_hash
        models = {
            name: StoredModel(kind, identity, partial(away, data.grouping.coalition(name))) for name in groups
        }
    return [drawing(name, model) for name, model in models.items()]


def stored_posterior(
    full: FullModel, data: GroupDataModule, kind: str, chosen: Counterfactuals, device: torch.device
) -> StoredPosterior:
    """The posterior of a kind that counterfactuals follow from.

    Raises:
        StoreError: It is missing, or made from another full model, grouping or schedule; or several fit.
    """
    return open_posterior(
        PosteriorStore(chosen.store),
        kind,
        full.model.schedule,
        seed=chosen.seed,
        hparams=chosen.hparams,
        data=data,
        expect=full.provenance(data.grouping.hash, data_hash=data.hash),
        device=device,
    )


def stored_networks(
    full: FullModel, data: GroupDataModule, names: Sequence[str], chosen: Counterfactuals
) -> dict[str, StoredModel]:
    """The networks that were trained without some groups, by what they were trained without.

    Raises:
        StoreError: One is missing, or made from another full model, grouping or schedule; or several fit.
    """
    store, expect = (
        CounterfactualStore(chosen.store),
        full.provenance(data.grouping.hash, data_hash=data.hash),
    )
    network = copy.deepcopy(full.model.denoiser)  # one for all of them: they are read one after the other
    model = replace(full.model, denoiser=network)

    def read(key: CounterfactualKey) -> DiffusionModel:
        set_own_weights(network, store.load(key, expect=expect)[0], store.path(key))
        return model

    keys = store.select(chosen.operator, chosen.seed, hparams=chosen.hparams, groups=names)
    weights = {name: store.check(key, expect=expect).weights_hash for name, key in keys.items()}
    return {name: StoredModel(key.operator, weights[name], partial(read, key)) for name, key in keys.items()}


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
    drawn = folder_record(folder).get("config", {})
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
