"""How networks are called, and the adapter for those that are called otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from guda_lightning.diffusion.weights import unwrapped
from guda_lightning.errors import ConfigError

# Names of arguments by which others' networks take a timestep and class labels.
_TIMES = ("t", "ts", "time", "times", "timestep", "timesteps", "noise_labels", "noise_level", "noise_levels")
_NOISE = ("sigma", "sigmas", "log_snr")  # other numbers than timesteps
_LABELS = ("class_labels", "y", "classes", "labels", "class_label", "label", "c")
_FORM = "forward(x_t, timesteps), and class_labels=... where the model is conditional on classes"
_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


class CallAs(nn.Module):
    """A network whose arguments have other names, or another order, than those of a denoiser.

    Args:
        network: The network.
        sample: Its argument for the noised samples x_t.
        timesteps: Its argument for the timesteps.
        class_labels: Its argument for class labels; None for a network without.
        output: The entry of the dictionary that it returns, where that has several.
        arguments: Others of its arguments, with values that stay the same.

    Example:
        A network with ``forward(t, x, y)``::

            CallAs(network, sample="x", timesteps="t", class_labels="y")
    """

    def __init__(
        self,
        network: nn.Module,
        sample: str = "x",
        timesteps: str = "t",
        class_labels: str | None = None,
        output: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.arguments = network, arguments or {}
        self.sample, self.timesteps, self.class_labels, self.output = sample, timesteps, class_labels, output

    def forward(
        self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None = None, **condition: Tensor
    ) -> Any:
        """What the network returns.

        Args:
            x_t: ``[batch, ...]`` noised samples.
            timesteps: ``[batch]``.
            class_labels: ``[batch]`` int64, for a label-conditional network.
            **condition: Other conditions, by the network's own names.

        Raises:
            ConfigError: There are class labels and no argument is named for them, or no such output.
        """
        named = {**self.arguments, self.sample: x_t, self.timesteps: timesteps, **condition}
        if class_labels is not None:
            if self.class_labels is None:
                raise _refusal(type(self.network), "no argument is named for class labels")
            named[self.class_labels] = class_labels
        result = self.network(**named)
        if self.output is None:
            return result
        if not isinstance(result, Mapping) or self.output not in result:
            keys = sorted(map(str, result)) if isinstance(result, Mapping) else f"a {type(result).__name__}"
            raise ConfigError(
                f"{type(self.network).__name__} returns nothing that is named {self.output!r}",
                found=keys,
                expected=f"a dictionary with the key {self.output!r}",
                fix="correct output of guda_lightning.diffusion.CallAs, or leave it out",
            )
        return result[self.output]


def adapted(network: nn.Module) -> nn.Module:
    """The network inside a ``CallAs``, which training may call itself; any other is itself."""
    return network.network if isinstance(network, CallAs) else network


def call(network: nn.Module, x_t: Tensor, timesteps: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    """The prediction of a network that is called as a denoiser.

    Args:
        network: Any diffusers model, or any module called as ``network(x_t, timesteps)``.
        x_t: ``[batch, ...]`` noised samples.
        timesteps: ``[batch]`` values that it takes.
        condition: Other arguments by name, such as ``class_labels``.

    Returns:
        ``[batch, ...]`` of the shape of ``x_t``. Of a network that also predicts its variance, and gives
        twice the channels, the prediction, which comes first.

    Raises:
        ConfigError: The network takes other arguments, or returns something else.
    """
    kind: Any = type(unwrapped(network))
    if _is_named(kind, frozenset(condition)):
        output = output_tensor(network(hidden_states=x_t, timestep=timesteps, **condition))
    else:
        output = output_tensor(network(x_t, timesteps, **condition))
    if output.ndim == x_t.ndim and output.shape[1] == 2 * x_t.shape[1]:
        output = output[:, : x_t.shape[1]]
    if output.shape != x_t.shape:
        raise ConfigError(
            f"what {type(network).__name__} returns has another shape than its input",
            found=f"{list(output.shape)} from {list(x_t.shape)}",
            expected="the same shape, or twice the channels where a variance is predicted too",
            fix="set the network's in_channels and out_channels to the channels of the data",
        )
    return output


def predicts_variance(network: nn.Module) -> bool:
    """Whether a network is built to predict a variance too, as its configuration says."""
    config = getattr(network, "config", {})
    channels = config.get("in_channels") if isinstance(config, Mapping) else None
    return channels is not None and config.get("out_channels") == 2 * channels


def batch_size(output: Any) -> int:
    """How many samples whatever a network has returned is of."""
    values = output.values() if isinstance(output, Mapping) else output
    if not isinstance(output, (Mapping, tuple, list)):
        values = [getattr(output, "sample", output)]
    return len(next(value for value in values if isinstance(value, Tensor)))


def output_tensor(output: Any) -> Tensor:
    """The prediction in what a network returns: a tensor, or a tuple, list, dictionary or object with one.

    Raises:
        ConfigError: It holds none, or several that are not told apart.
    """
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    elif isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        output = output.get("sample", tensors[0] if len(tensors) == 1 else output)
    else:
        output = getattr(output, "sample", output)
    if isinstance(output, Tensor):
        return output
    keys = f" with the keys {sorted(map(str, output))}" if isinstance(output, Mapping) else ""
    raise ConfigError(
        "the network's output is not understood",
        found=f"a {type(output).__name__}{keys}",
        expected="a tensor, or a tuple, list, dictionary or object that holds one",
        fix="wrap it, with the key: guda_lightning.diffusion.CallAs(network, ..., output='KEY')",
    )


@lru_cache(maxsize=64)  # asked at every step
def _is_named(network: Any, condition: frozenset[str]) -> bool:
    """Whether networks are called as diffusers' transformers are, whose second argument is the prompt.

    Raises:
        ConfigError: It is called in neither way.
    """
    signature = inspect.signature(network.forward)
    if "hidden_states" in signature.parameters:
        return True
    names = [name for name, one in signature.parameters.items() if one.kind in _POSITIONAL][1:]
    if names[:1] and names[0] in (*_TIMES, *_NOISE):
        raise _refusal(network, f"its first argument is {names[0]}")
    if names[1:] and names[1] not in (*_TIMES, *_NOISE) and {*names[2:]} & {*_TIMES}:
        raise _refusal(network, f"its second argument is {names[1]}")
    if names[1:] and names[1] in _NOISE:
        raise ConfigError(
            f"{network.__name__} takes noise levels in place of timesteps",
            found=_written(network),
            expected="forward(x_t, timesteps)",
            fix="call it in a module of yours, whose forward(x_t, timesteps) computes them: docs/models.md",
        )
    swallowed = "class_labels" in condition and "class_labels" not in signature.parameters
    if swallowed and any(name in signature.parameters for name in _LABELS):
        raise _refusal(network, "it takes class labels by another name")
    try:
        signature.bind(None, None, None, **dict.fromkeys(condition))
    except TypeError as error:
        raise _unbound(network, condition, str(error)) from error
    return False


def _unbound(network: type[nn.Module], condition: frozenset[str], reason: str) -> ConfigError:
    """The refusal of a network that takes other arguments, which the adapter may name or not."""
    parameters = inspect.signature(network.forward).parameters
    rest = [*parameters.items()][3:]
    needed = [name for name, one in rest if one.default is one.empty and one.kind in _NAMED]
    conditions = [name for name in needed if name not in (*condition, *_LABELS)]
    if conditions:
        return ConfigError(
            f"{network.__name__} needs conditions that the model does not have",
            found=f"{_written(network)}: no {' and no '.join(conditions)}",
            expected=_FORM,
            fix="call it in a module of yours that gives them; a text-to-image pipeline is trained by "
            "guda_lightning.LatentDiffusionModule",
        )
    if "class_labels" in condition and not needed and len(parameters) >= 3:
        return ConfigError(
            f"{network.__name__} takes no class labels, and the model is conditional on them",
            found=_written(network),
            expected="forward(x_t, timesteps, class_labels=...)",
            fix="set conditional of the model to false, or name it in guda_lightning.diffusion.CallAs",
        )
    return _refusal(network, reason)


def _refusal(network: type[nn.Module], reason: str) -> ConfigError:
    """The refusal of a network that needs the adapter, ready to paste."""
    parameters = inspect.signature(network.forward).parameters.items()
    names = [name for name, one in parameters if one.kind in _NAMED][1:]
    times = next((name for name in names if name in (*_TIMES, *_NOISE)), "t")
    sample = next((name for name in names if name not in (times, *_LABELS)), "x")
    labels = next((f", class_labels={name!r}" for name in names if name in _LABELS), "")
    arguments = f"sample={sample!r}, timesteps={times!r}{labels}"
    return ConfigError(
        f"{network.__name__} is called with other arguments than a denoiser",
        found=f"{_written(network)}: {reason}",
        expected=_FORM,
        fix=f"wrap it: guda_lightning.diffusion.CallAs(network, {arguments})",
    )


def _written(network: type[nn.Module]) -> str:
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    plain = [one.replace(annotation=one.empty) for one in parameters]
    return f"forward{inspect.Signature(plain)}"
