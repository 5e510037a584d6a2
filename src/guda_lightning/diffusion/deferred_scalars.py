"""Scalars of a training step that the host reads one step later."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class DeferredScalars:
    """Scalars on their way from the device: to read them at once would make every step wait for a GPU.

    One step later they have long been copied, while the device is busy with the next step.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, tuple[str, ...], Tensor] | None = None
        self._copied: torch.cuda.Event | None = None

    def put(self, step: int, scalars: Mapping[str, Tensor]) -> None:
        """Start copying the scalars of a step to the host, in place of those of another step."""
        values = torch.stack([value.detach().float() for value in scalars.values()])
        self._pending = step, tuple(scalars), values.to("cpu", non_blocking=values.is_cuda)
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> tuple[int, dict[str, float]] | None:
        """The step and the scalars that were put last, None after ``clear``; waits for their copy."""
        if self._pending is None:
            return None
        if self._copied is not None:
            self._copied.synchronize()
        step, names, values = self._pending
        return step, dict(zip(names, values.tolist(), strict=True))

    def clear(self) -> None:
        """Drop the scalars."""
        self._pending = self._copied = None
