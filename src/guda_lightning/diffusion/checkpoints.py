"""Checkpoint files that other programs wrote: their tensors are read, and no code in them runs."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from guda_lightning.diffusion.weights import bare_name, bare_names
from guda_lightning.errors import StoreError

INDEX = "model_index.json"  # of a diffusers pipeline
OWN_WEIGHTS = "denoiser/model.safetensors"  # a denoiser that is no diffusers model
_STATE_DICTS = ("state_dict", "model_state_dict", "model")  # where frameworks keep the weights
_WEIGHTS = re.compile(r"\w+(-\d+-of-\d+)?(\.(?P<variant>\w+)(-\d+-of-\d+)?)?\.(safetensors|bin)")
_EXPECTED = "a folder written by save_pretrained, a Lightning checkpoint, or a file with a state_dict"


class _Inert:
    """Stands for an object of any class that is not wanted: it takes the arguments and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict(_Inert):
    """The same for subclasses of dict, which torch fills by item."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


class _InertList(_Inert):
    """The same for subclasses of list."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return []


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, on the CPU.

    Hyper-parameters may hold objects of any class, such as paths or OmegaConf containers: an inert object is
    put in their place, so that none of their code is imported or runs (``torch.load`` with ``weights_only``).

    Args:
        path: A ``.safetensors`` file, or a file of ``torch.save``: a state dict, or a dict that holds one
            as ``state_dict``, ``model_state_dict`` or ``model``.

    Raises:
        StoreError: It is broken, or holds no weights.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise unreadable(path, error) from error
    if not path.stat().st_size:
        raise unreadable(path, "an empty file")
    content = _load(path)
    found = content if isinstance(content, Mapping) else {}
    name = next((name for name in _STATE_DICTS if isinstance(found.get(name), Mapping)), None)
    state = found if name is None else found[name]
    named = {key: value for key, value in state.items() if isinstance(key, str)}
    weights = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if not weights:
        classes = [] if isinstance(content, Mapping) and content else _globals(path)
        inside = f"objects of {', '.join(classes[:6])}" if classes else _described(content)
        fix = f"save the weights alone: torch.save(model.state_dict(), {path.name!r})" if classes else ""
        raise unreadable(path, f"no state_dict inside, but {inside}", fix)
    return weights


def _load(path: Path) -> Any:
    """What ``torch.save`` wrote, with inert objects for all classes that ``weights_only`` does not allow."""
    unknown = _globals(path)
    refused: Exception | None = None
    for kind in (_Inert, _InertDict, _InertList) if unknown else (_Inert,):
        try:
            with torch.serialization.safe_globals([(type(name, (kind,), {}), name) for name in unknown]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a different class for each way a file can be broken
            refused = refused or error
    raise unreadable(path, refused) from refused


def _globals(path: Path) -> list[str]:
    try:
        return unreadable_globals(path)
    except Exception:  # no archive: torch.load says what it is
        return []


def weights_variant(folder: Path) -> str | None:
    """The variant, such as ``fp16``, of weights that lie in a folder in no other form.

    Args:
        folder: That of one network, as ``save_pretrained`` writes it; None is returned if there is none.

    Raises:
        StoreError: There are several variants and none without a name.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [match for name in names if (match := _WEIGHTS.fullmatch(name))]
    variants = sorted({match["variant"] for match in found if match["variant"]})
    if not variants or any(match["variant"] is None for match in found):
        return None
    if len(variants) > 1:
        raise StoreError(
            f"the weights in {folder} come in several variants",
            found=", ".join(variants),
            expected="one variant, or weights without a variant's name",
            fix="move all but one of them away",
        )
    return variants[0]


def unreadable_globals(path: Path) -> list[str]:
    """The classes and functions in a file of ``torch.save`` that ``weights_only`` refuses, sorted."""
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], path: object, parts: Sequence[str] = ()
) -> None:
    """Give a module the weights that were read from a path, whatever wraps either of the two.

    Args:
        module: The module, changed in place.
        weights: As ``read_checkpoint`` returns them, or a ``state_dict``.
        path: Where they are from, for errors.
        parts: Dotted paths of the submodules that have to fit; what the file lacks or has besides, such as
            metrics or an average of its own, is left as it is. Empty: the whole module has to fit.

    Raises:
        StoreError: They are those of another architecture.
    """
    own = module.state_dict()
    names, given = bare_names(own), bare_names(weights)
    counting = tuple(f"{bare_name(part)}." for part in parts) or ("",)
    loaded = {name: value for name, value in own.items() if not bare_name(name).startswith(counting)}
    for bare, name in given.items():
        known, value = names.get(bare, name), weights[name]
        if bare.startswith(counting) or (known in loaded and loaded[known].shape == value.shape):
            loaded[known] = value
    try:
        module.load_state_dict(loaded)
    except RuntimeError as error:
        raise StoreError(
            f"the weights in {path} do not fit {type(module).__name__}",
            found="; ".join(_misfits(str(error))),
            expected="the architecture of the configuration's model",
            fix="use the configuration that the checkpoint was trained with (its `model` section)",
        ) from error


def alone(weights: Mapping[str, Tensor], network: nn.Module, path: Path) -> dict[str, Tensor] | None:
    """The weights of one network by its own names, where a file has them below one prefix, whatever that is.

    Args:
        weights: As ``read_checkpoint`` returns them.
        network: The network.
        path: Where they are from, for errors.

    Returns:
        None where no prefix, the empty one included, has just the names of the network.

    Raises:
        StoreError: Several have, as those of a network and its average.
    """
    names, given = bare_names(network.state_dict()), bare_names(weights)
    first = next(iter(names), "")
    prefixes = [name.removesuffix(first) for name in given if name == first or name.endswith(f".{first}")]
    whole = [
        prefix
        for prefix in prefixes
        if {name.removeprefix(prefix) for name in given if name.startswith(prefix)} == names.keys()
    ]
    if len(whole) > 1:
        raise StoreError(
            f"{path} holds several networks that fit {type(network).__name__}",
            found=f"weights below {' and '.join(sorted(whole))}",
            expected="those of one, or of the configured module under its own names",
            fix="save the state_dict of one of them alone",
        )
    return {name: weights[given[f"{whole[0]}{name}"]] for name in names} if whole else None


def _misfits(text: str) -> list[str]:
    """What torch says of weights that do not fit, with a few of the names."""
    lines = [line.strip() for line in text.splitlines()[1:]]
    shapes = [line for line in lines if line.startswith("size mismatch")]
    said = []
    for line in [*(line for line in lines if line not in shapes), *shapes[:2]]:
        head, *names = line.split('"')
        listed = names[::2]
        more = f'{head}"{listed[0]}", "{listed[1]}" and {len(listed) - 2} more' if len(listed) > 3 else line
        said.append(more)
    return [*said, f"{len(shapes) - 2} more of other shapes"] if len(shapes) > 2 else said


def no_full(path: Path) -> StoreError:
    """The refusal of a folder that holds no full model, with what in it may be meant."""
    names = sorted(one.name for one in path.iterdir())
    fix = "pass the folder that save_pretrained wrote, or run `guda fit` again"
    inside = [name for name in names if (path / name / "config.json").is_file()]
    inside += [name for name in names if Path(name).suffix in (".safetensors", ".ckpt", ".pth", ".bin")]
    if any(name.endswith(".distcp") for name in names):
        tool = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        fix = f"make one file of it: {tool} {path} {path}.ckpt"
    elif "zero_to_fp32.py" in names:
        fix = f"consolidate it: python {path}/zero_to_fp32.py {path} FOLDER; then pass the file in FOLDER"
    elif inside:
        fix = f"pass {path}/{inside[0]}"
    return StoreError(
        "this folder holds no full model",
        found=f"{path} with {names[:6]}",
        expected=f"{INDEX} (a diffusers pipeline), config.json (a diffusers network) or {OWN_WEIGHTS}",
        fix=fix,
    )


def unreadable(path: Path, reason: object, fix: str = "") -> StoreError:
    """The refusal of a full model that cannot be read."""
    text = str(reason)
    if text.startswith("Weights only load failed"):  # the reason is in the last paragraph but one
        text = text.partition("\n\nCheck the documentation")[0].rpartition("\n\n")[2] or text
        text = text.rpartition("WeightsUnpickler error: ")[2]
    return StoreError(
        "the full model cannot be read",
        found=f"{path}: {' '.join(text.split())[:300]}",
        expected=_EXPECTED,
        fix=fix or "restore the file, or run `guda fit` again",
    )


def _described(content: object) -> str:
    if isinstance(content, Mapping):
        return f"the keys {', '.join(sorted(map(repr, content))[:6])}" if content else "nothing"
    return f"a {type(content).__name__}"
