"""A second device without a GPU: tensors that say they are on ``cuda:0``, and that refuse to meet others.

Their numbers lie in ordinary memory, so that whole stages run and their results can be compared; what CUDA would
refuse is refused: an operation on tensors of both devices, or numpy of a tensor that is not on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("cuda:0")
_aten = torch.ops.aten
# Indices may come from the CPU.
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class _There(Tensor):
    """A tensor on the second device; its numbers are in ``here``."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        return Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device="meta",  # for C++, which has no CUDA here
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"there({self.here!r})"

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_meta = False  # type: ignore[assignment]

    def tolist(self) -> Any:  # which torch refuses for subclasses
        return self.here.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation where its tensors are, or where it is told to make some."""
    named = {argument.name: value for argument, value in zip(op._schema.arguments, args, strict=False)}
    named |= kwargs
    given = [value for value in tree_flatten(named)[0] if isinstance(value, Tensor)]
    there = any(isinstance(value, _There) for value in given)
    copies = named.get("device") is not None or op is _aten.copy_.default
    if there and not copies:
        meet = [named["self"]] if op in _INDEXING else [value for value in given if value.dim()]
        if not all(isinstance(value, _There) for value in meet):
            raise RuntimeError(f"{op} expects all tensors on one device, but found {DEVICE} and cpu")
    if named.get("device") is not None:
        there = torch.device(named["device"]).type != "cpu"
        named["device"] = torch.device("cpu")
    elif op is _aten.copy_.default:
        there = isinstance(named["self"], _There)
    generator = named.get("generator")
    if isinstance(generator, torch.Generator) and (generator.device.type != "cpu") != there:
        raise RuntimeError(f"{op} expects a generator of its own device, but found {generator.device}")
    out = op(**tree_map_only(_There, lambda value: value.here, named))
    if copies and op is not _aten.copy_.default:
        return tree_map_only(Tensor, _There, out) if there else out
    return (
        return_and_correct_aliasing(op, args, kwargs, tree_map_only(Tensor, _There, out)) if there else out
    )


class _Generator(torch.Generator):
    """A generator of numbers for one of the two devices."""

    device = torch.device("cpu")

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls, "cpu")
        made.device = torch.device(device)
        return made


class _SecondDevice(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


@contextmanager
def second_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """While it lasts, ``cuda:0`` is there."""
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) is a tensor of the CPU that is moved
    try:
        with _SecondDevice():
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


class SecondDevice(SingleDeviceStrategy):
    """A trainer's strategy there."""

    def __init__(self) -> None:
        super().__init__(DEVICE)

    def setup_environment(self) -> None:
        """There is nothing to set up, and the accelerator for CPUs would say so."""
