"""The full model on disk: an ordinary diffusers folder, or whatever else a user brings."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import ModelMixin, SchedulerMixin
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from guda_lightning.diffusion.adapters import ADAPTED
from guda_lightning.diffusion.bounds import bounded, refuse_counts
from guda_lightning.diffusion.checkpoints import (
    INDEX,
    OWN_WEIGHTS,
    alone,
    load_weights,
    no_full,
    read_checkpoint,
    unreadable,
    weights_variant,
)
from guda_lightning.diffusion.full import FullModel, model_hash
from guda_lightning.diffusion.given_scheduler import GivenScheduler
from guda_lightning.diffusion.model import DiffusionModel
from guda_lightning.diffusion.module import DiffusionModule
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from guda_lightning.diffusion.weights import (
    bare_names,
    ordinary_weights,
    unwrapped,
    weights_hash,
    without_wrappers,
)
from guda_lightning.errors import GudaError, StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.storage.files import canonical_json, read_json, write_atomic
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.paths import refuse_missing_full, user_path

DENOISERS = ("unet", "transformer")  # what diffusers pipelines call their denoiser


def save_full(folder: Path, full: FullModel) -> None:
    """Write a full model into a folder that ``DiffusionPipeline.from_pretrained`` opens.

    A denoiser that is no diffusers model is written as safetensors, to be read into the same module; so is a
    noise scheduler of another library, beside which a diffusers model is written as its own class opens it.
    """
    import diffusers

    network: Any = without_wrappers(full.model.denoiser)
    full.scheduler.save_pretrained(folder / "scheduler")
    if getattr(diffusers, type(network).__name__, None) is not type(network):
        (folder / OWN_WEIGHTS).parent.mkdir(parents=True)
        # Weights that share memory, which safetensors refuses, become copies.
        weights = {name: value.cpu().contiguous().clone() for name, value in network.state_dict().items()}
        save_file(weights, folder / OWN_WEIGHTS)
        return
    if isinstance(full.scheduler, GivenScheduler):
        network.save_pretrained(folder)
        return
    network.save_pretrained(folder / "unet")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", type(network).__name__],
        "scheduler": ["diffusers", type(full.scheduler).__name__],
    }
    write_atomic(folder / INDEX, canonical_json(index))


def open_full(
    path: Path,
    module: LightningModule | None,
    denoiser: str | None = None,
    scheduler: str | None = None,
    conditional: bool = False,
) -> FullModel:
    """Read a full model.

    Args:
        path: A diffusers folder (a pipeline's or a network's), a folder written by ``guda fit``, or a
            Lightning checkpoint of ``module``'s class; ``~`` and environment variables are written out.
        module: The module of the configuration: gives what the path does not (the architecture for a
            checkpoint, the scheduler for a bare network), and whether it is conditional. None where a
            diffusers pipeline says it all.
        denoiser: Where ``module`` has its network, by dotted path; see ``FullModel.of``.
        scheduler: Where ``module`` has its noise scheduler, by dotted path; see ``FullModel.of``.
        conditional: Whether the network takes class labels or prompts; see ``FullModel.of``.

    Raises:
        StoreError: The path does not exist, is of no such kind, its weights do not fit, or it needs a module
            and there is none; or it is one that ``guda fit`` wrote, and damaged.
    """
    refuse_missing_full(path)
    path = user_path(path)
    record = FullRecord.intact(path)
    full = _opened(path, module, denoiser, scheduler, conditional)
    return full if record is None else _as_recorded(path, full, record)


def _opened(
    path: Path,
    module: LightningModule | None,
    denoiser: str | None,
    scheduler: str | None,
    conditional: bool,
) -> FullModel:
    conditional = module.conditional if isinstance(module, DiffusionModule) else conditional
    if (path / INDEX).is_file():
        return _open_pipeline(path, conditional)
    if module is None:
        if not any(one.is_file() for one in (path, path / "config.json", path / OWN_WEIGHTS)):
            raise no_full(path)
        raise StoreError(
            f"{path} does not say all of a full model",
            found="weights without the module that they belong to, or without a noise scheduler",
            expected="the folder of a diffusers pipeline, or a module as it was built for training",
            fix="pass FullModel.load(path, module)",
        )
    if path.is_file():
        weights = read_checkpoint(path)
        if any(ADAPTED in name for name in weights):
            raise StoreError(
                f"{path} holds a LoRA beside the weights that it was trained on",
                found="an adapter that is not merged yet",
                expected="the weights of a whole model",
                fix="let the training end: RUN/full holds them merged",
            )
        _load_checkpoint(module, weights, path, denoiser, scheduler)
        return FullModel.of(module, denoiser, scheduler, conditional)
    if (path / "config.json").is_file():
        network = _network(path, read_json(path / "config.json").get("_class_name"), path / "config.json")
        of_module = FullModel.of(module, denoiser, scheduler, conditional)
        model = replace(of_module.model, denoiser=network)
        return FullModel(model, of_module.scheduler, model_hash(model))
    if (path / OWN_WEIGHTS).is_file():
        full = FullModel.of(module, denoiser, scheduler, conditional)
        load_weights(full.model.denoiser, read_checkpoint(path / OWN_WEIGHTS), path)
        return FullModel.of(module, denoiser, scheduler, conditional)
    raise no_full(path)


def _as_recorded(path: Path, full: FullModel, record: FullRecord) -> FullModel:
    """The model under the identity that its record gives it.

    What is sealed is what was recorded, by whichever defaults a library has by now. An earlier version sealed
    nothing, and knew a model by its weights alone.

    Raises:
        StoreError: It is another one.
    """
    found = record.full_hash if record.sealed else weights_hash(ordinary_weights(full.model.denoiser))
    if found != record.full_hash:
        raise StoreError(
            f"{path} holds another model than its record says",
            found=f"full_hash {found[:16]}",
            expected=f"full_hash {record.full_hash[:16]}",
            fix=f"restore it, or remove {path} and run guda fit again",
        )
    return replace(full, hash=found)


def _load_checkpoint(
    module: LightningModule,
    weights: Mapping[str, Tensor],
    path: Path,
    denoiser: str | None,
    scheduler: str | None,
) -> None:
    """Give a module the weights of a checkpoint of itself, or of its network alone."""
    network = FullModel.of(module, denoiser, scheduler).model.denoiser
    if isinstance(module, DiffusionModule):
        networks, parts = [unwrapped(module.denoiser), network], ("denoiser", "ema")
    else:
        networks, parts = [network], (str(denoiser), str(scheduler))
    given, own = bare_names(weights).keys(), bare_names(module.state_dict()).keys()
    of_module = given & own and given != bare_names(network.state_dict()).keys()
    network_alone = None if of_module else alone(weights, network, path)
    if network_alone is None:
        load_weights(module, weights, path, parts)
        return
    for each in networks:
        load_weights(each, network_alone, path)


def open_schedule(path: Path) -> NoiseSchedule:
    """The noise schedule of a full model's folder, without reading its weights.

    Raises:
        StoreError: The folder has no scheduler, one that is damaged or that the installed diffusers cannot
            read.
    """
    FullRecord.intact(path, "scheduler")
    folder = path / "scheduler"
    given = GivenScheduler.load(folder)
    if given is not None:
        return noise_schedule(given)
    file = folder / "scheduler_config.json"
    class_name = read_json(file, infinities=True).get("_class_name")
    return noise_schedule(_component(folder, class_name, SchedulerMixin, named_by=file))


def _open_pipeline(path: Path, conditional: bool) -> FullModel:
    index = read_json(path / INDEX)
    name = next((n for n in DENOISERS if n in index), None)
    if name is None or "scheduler" not in index:
        raise StoreError(
            f"{path / INDEX} names no denoiser and scheduler",
            found=f"components {sorted(k for k in index if not k.startswith('_'))}",
            expected=f"{' or '.join(DENOISERS)}, and scheduler",
            fix="pass the folder of a diffusion pipeline, as save_pretrained writes it",
        )
    network = _network(path / name, _class_name(index[name]), path / INDEX)
    scheduler = _component(
        path / "scheduler", _class_name(index["scheduler"]), SchedulerMixin, named_by=path / INDEX
    )
    schedule, prediction = noise_schedule(scheduler), prediction_type(scheduler)
    model = DiffusionModel(network, schedule, prediction, conditional=conditional)
    return FullModel(model, scheduler, model_hash(model))


def _class_name(entry: object) -> object:
    """The class in an entry of a pipeline's index, ``[library, class]``; the entry itself if it is none."""
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else entry


def _network(folder: Path, class_name: object, named_by: Path) -> nn.Module:
    """The network of a folder, ready for use; diffusers itself would make up weights that are missing."""
    variant = weights_variant(folder)
    options = {"low_cpu_mem_usage": False, "output_loading_info": True}  # low memory usage needs accelerate
    network, loaded = _component(
        folder, class_name, ModelMixin, named_by=named_by, variant=variant, **options
    )
    if wrong := made_up(loaded):
        raise unreadable(folder, wrong)
    module: nn.Module = network.eval()
    return module


def made_up(loaded: Mapping[str, Any]) -> str:
    """What diffusers has made up or left out, by its information on a loading; empty where all is well."""
    wrong = {name: sorted(keys) for name, keys in loaded.items() if keys}
    return "; ".join(f"{name} {keys}" for name, keys in sorted(wrong.items()))


def _component(folder: Path, class_name: object, base: type, *, named_by: Path, **options: object) -> Any:
    """One network or scheduler of a pipeline, without diffusers' own progress bar."""
    import diffusers

    kind = getattr(diffusers, class_name, None) if isinstance(class_name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, base) and hasattr(kind, "load_config")):
        raise StoreError(
            f"{named_by} names a class that diffusers does not have",
            found=str(class_name)[:100],
            expected=f"a {'network' if base is ModelMixin else 'scheduler'} of the installed diffusers",
            fix="update diffusers, or load the model in your own LightningModule and pass a checkpoint",
        )
    if not folder.is_dir():
        raise unreadable(folder, "no such folder")
    loader: Any = kind
    try:
        refuse_counts(loader.load_config(folder, local_files_only=True), "")
        with bounded():
            return loader.from_pretrained(folder, local_files_only=True, **options)
    except GudaError as error:
        raise unreadable(folder / loader.config_name, f"{error.problem}: {error.found}") from error
    except Exception as error:  # whatever a constructor makes of a value in config.json
        place = folder / loader.config_name if _constructs(kind, error) else folder
        raise unreadable(place, f"{type(error).__name__}: {error}") from error


def _constructs(kind: type, error: Exception) -> bool:
    """Whether the constructor of a class has raised it, or what that has called."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(
        frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), kind)
        for frame in frames
    )
