"""The full model: the one that saw all groups."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from lightning.pytorch import LightningModule
from torch import nn

from guda_lightning.diffusion.calling import adapted
from guda_lightning.diffusion.model import Condition, DiffusionModel, diffusion_model, find
from guda_lightning.diffusion.module import DiffusionModule
from guda_lightning.diffusion.schedulers import adopted
from guda_lightning.diffusion.weights import ordinary_weights, unwrapped, weights_hash
from guda_lightning.distributed.sharding import whole
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance


@dataclass(frozen=True)
class FullModel:
    """The model that saw all groups.

    Attributes:
        model: Denoiser, noise schedule and prediction type.
        scheduler: The noise scheduler it was trained with, one of diffusers or a ``GivenScheduler``.
        hash: Identity of its weights, its configuration and what it predicts.
    """

    model: DiffusionModel
    scheduler: Any
    hash: str

    @classmethod
    def of(
        cls,
        module: nn.Module,
        denoiser: str | None = None,
        scheduler: str | None = None,
        conditional: bool = False,
    ) -> FullModel:
        """The full model inside a LightningModule, of either package: our moving average, or by dotted path.

        One whose weights are spread over processes is gathered on the CPU; all of them must call this.

        Args:
            module: The module to take it from.
            denoiser: Path of the network; may be left out for a ``DiffusionModule``.
            scheduler: Path of the noise scheduler, ``"."`` for the module itself; may be left out for a
                ``DiffusionModule``.
            conditional: Whether the network takes class labels or prompts; a ``DiffusionModule`` says so
                itself.

        Raises:
            ConfigError: A path is needed and missing, or leads nowhere.
        """
        if isinstance(module, DiffusionModule):
            path = denoiser or ("denoiser" if module.ema is None else "ema.module")
            scheduler = scheduler or "scheduler"
        elif denoiser is None or scheduler is None:
            raise ConfigError(
                f"a {type(module).__name__} does not say where its diffusion model is",
                found=f"denoiser={denoiser!r}, scheduler={scheduler!r}",
                expected="the dotted attribute paths of the network and of its noise scheduler",
                fix="pass both, e.g. denoiser='unet', scheduler='noise_scheduler'",
            )
        else:
            path = denoiser
        found = diffusion_model(module, path, scheduler)
        model = replace(found, denoiser=whole(unwrapped(found.denoiser)), conditional=conditional)
        if isinstance(module, DiffusionModule):
            model = replace(model, prompts=module.prompts, conditional=module.conditional)
        kept = adopted(find(module, scheduler, "scheduler"))
        return cls(model, kept, model_hash(model))

    @classmethod
    def load(
        cls,
        path: str | Path,
        module: LightningModule | None = None,
        denoiser: str | None = None,
        scheduler: str | None = None,
        conditional: bool = False,
    ) -> FullModel:
        """Read a full model, as ``--full`` takes it: RUN/full, a diffusers folder or a Lightning checkpoint.

        Args:
            path: The folder of a pipeline or of a network alone, or the checkpoint; ``~`` and environment
                variables are written out.
            module: The module that it was trained as, for a checkpoint, a network alone or one that is none
                of diffusers; left out where the folder of a pipeline says it all.
            denoiser: Where the module has its network; see ``of``.
            scheduler: Where the module has its noise scheduler; see ``of``.
            conditional: Whether the network takes class labels or prompts; a ``DiffusionModule`` says so
                itself.

        Raises:
            StoreError: There is nothing at the path, it is of no such kind, its weights do not fit, or it
                needs a module and there is none.
        """
        from guda_lightning.diffusion.saved import open_full

        return open_full(Path(path), module, denoiser, scheduler, conditional)

    def provenance(
        self,
        grouping_hash: str | None = None,
        input_shape: tuple[int, int, int] | None = None,
        data_hash: str | None = None,
    ) -> Provenance:
        """What anything made from this model and its data carries, and must carry to fit them."""
        return Provenance(self.hash, self.model.schedule.hash, grouping_hash, input_shape, data_hash)

    def prompted(self, prompts: Condition | None) -> FullModel:
        """The same model with the embeddings of prompts, if there are any: then it is conditional."""
        return replace(self, model=self.model.prompted(prompts))


def model_hash(model: DiffusionModel) -> str:
    """Identity of a model but for its noise schedule: weights, configuration, and what it predicts.

    The configuration is that of a network of diffusers, as far as it differs from the defaults of its class:
    later versions of diffusers add arguments, which changes no model.
    """
    network = adapted(unwrapped(model.denoiser))
    config: dict[str, Any] = {}
    if isinstance(network, ConfigMixin):
        arguments = inspect.signature(type(network)).parameters
        defaults = {name: _as_json(one.default) for name, one in arguments.items()}
        config = {
            name: value
            for name, value in json.loads(network.to_json_string(), parse_constant=str).items()
            if not name.startswith("_") and value != defaults.get(name, _NONE)
        }
    weights = weights_hash(ordinary_weights(model.denoiser))
    return sha256_json({"weights": weights, "config": config, "prediction": model.prediction})


_NONE = object()  # equals no value


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value, default=repr), parse_constant=str)


def refuse_nonfinite(full: FullModel, where: str) -> None:
    """Refuse a full model whose weights are not all numbers: everything made from it would be worthless.

    Args:
        full: The model.
        where: Where it is from, for the message.

    Raises:
        NumericsError: Some weight is NaN or infinite.
    """
    for name, tensor in full.model.denoiser.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise NumericsError(
                f"the full model of {where} has weights that are not numbers",
                found=f"NaN or infinity in {name}",
                expected="finite weights",
                fix="train it again with a lower learning rate or trainer.gradient_clip_val=1.0",
            )
