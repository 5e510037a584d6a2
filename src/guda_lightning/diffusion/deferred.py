"""Numbers of a training step that the host reads one step later."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Late:
    """Numbers on their way from the device: to read them at once would make every step wait for a GPU.

    One step later they have long been copied, while the device is busy with the next step.
    """

    def __init__(self) -> None:
        self._kept: tuple[int, tuple[str, ...], Tensor] | None = None
        self._copied: torch.cuda.Event | None = None

    def put(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """Start copying scalars of a step to the host."""
        scalars = torch.stack([value.detach().float() for value in numbers.values()])
        self._kept = step, tuple(numbers), scalars.to("cpu", non_blocking=scalars.is_cuda)
        if scalars.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> tuple[int, dict[str, float]] | None:
        """The step and the numbers that were put last; they stay until others are put or all are cleared."""
        if self._kept is None:
            return None
        if self._copied is not None:
            self._copied.synchronize()
        step, names, scalars = self._kept
        return step, dict(zip(names, scalars.tolist(), strict=True))

    def clear(self) -> None:
        """Forget them."""
        self._kept = self._copied = None
