"""Networks of a size that this machine can hold: others are refused while they are built."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from guda_lightning.errors import ConfigError, check_range

MOST_MODULES = 20_000  # several times those of the largest networks that diffusers knows
# Of networks and noise schedulers of diffusers: least and most. They loop over some of these.
COUNTS = {
    "num_train_timesteps": (1, 100_000),
    "layers_per_block": (0, 1000),
    "num_layers": (0, 1000),
    "num_single_layers": (0, 1000),
    "sample_size": (1, 65_536),
    "in_channels": (1, 1_000_000),
    "out_channels": (1, 1_000_000),
    "block_out_channels": (1, 1_000_000),
}
_FIX = "correct the number of layers, or of channels, of the network"


def refuse_counts(config: Mapping[str, Any], where: str) -> None:
    """Refuse counts of layers or timesteps that nobody means, before anything loops over them.

    Args:
        config: The configuration of a class of diffusers.
        where: What the names in it are to be behind, for errors: a file, or a dotted key.

    Raises:
        ConfigError: There is such a count.
    """
    for name in COUNTS.keys() & config.keys():
        least, most = COUNTS[name]
        for value in config[name] if isinstance(config[name], list | tuple) else [config[name]]:
            if isinstance(value, int | float):
                check_range(f"{where}{name}", value, ge=least, le=most, symbol=name, fix=f"correct {name}")


@contextmanager
def bounded() -> Iterator[None]:
    """Build networks with no more parts, and no larger weights, than a machine can hold.

    Raises:
        ConfigError: What is built is larger. Nothing has been written to its memory yet.
    """
    modules, size, memory = 0, 0, _memory()

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise ConfigError(
                "the network has too many layers",
                found=f"more than {MOST_MODULES} modules, the last one a {type(part).__name__}",
                expected=f"at most {MOST_MODULES}",
                fix=_FIX,
            )

    def weigh(module: nn.Module, name: str, weight: Any) -> None:
        nonlocal size
        if weight is None or is_lazy(weight) or weight.device.type != "cpu":
            return
        size += weight.numel() * weight.element_size()
        if size > memory:
            raise ConfigError(
                "the network does not fit into the memory of this machine",
                found=f"weights of {size / 1e9:.0f} GB or more",
                expected=f"at most {memory / 1e9:.0f} GB",
                fix=_FIX,
            )

    hooks = (
        register_module_module_registration_hook(count),
        register_module_parameter_registration_hook(weigh),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
