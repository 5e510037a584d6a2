"""A second device without a GPU: tensors that say they are on ``cuda:0`` and refuse to meet those of the CPU.

Their numbers lie in ordinary memory, so whole stages run there and give the numbers of the CPU. What CUDA
would refuse is refused: an operation on tensors of both devices, a generator of the other device, numpy of a
tensor that is not on the CPU. Checkpoints of trainings cannot be written: torch does not save such tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda:0")
_SUBSCRIPTS = (Tensor.__getitem__, Tensor.__setitem__)
_COPY = torch.ops.aten.copy_.default
_INDEXING = (  # whose indices may be on the CPU
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
)


class There(Tensor):
    """A tensor on the second device, and its numbers ``here``."""

    here: Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_meta = False  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
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

    def tolist(self) -> Any:  # which torch refuses for subclasses
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation where its tensors are, or where it is told to put its result."""
    named = {argument.name: value for argument, value in zip(op._schema.arguments, args, strict=False)}
    named |= kwargs
    given = [value for value in tree_leaves(named) if isinstance(value, Tensor)]
    told = named.get("device")
    if told is not None:
        there = torch.device(told).type != "cpu"
        named["device"] = torch.device("cpu")
    elif op is _COPY:
        there = isinstance(named["self"], There)
    else:
        there = any(isinstance(value, There) for value in given)
        meet = [named["self"]] if op in _INDEXING else [value for value in given if value.dim()]
        if there and not all(isinstance(value, There) for value in meet):
            raise RuntimeError(f"{op} expects all tensors on one device, but found {DEVICE} and cpu")
    out = op(**tree_map_only(There, lambda value: value.here, named))
    if not there:
        return out
    out = tree_map_only(Tensor, There, out)
    return out if told is not None else return_and_correct_aliasing(op, args, kwargs, out)


class _Generator(torch.Generator):
    """Random numbers of one of the two devices; both give the same."""

    device = torch.device("cpu")

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls, "cpu")
        made.device = torch.device(device)
        return made


class _Functions(TorchFunctionMode):
    """Does what C++ would do wrong: it takes the second device for one without numbers.

    Generators of the other device are refused, which an operation itself no longer tells apart. Lists in an
    index become tensors here.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, _Generator):
            device = torch.device(kwargs.get("device") or "cpu")
            if generator.device.type != device.type:
                raise RuntimeError(f"expects a generator of {device.type}, but found {generator.device.type}")
        if function in _SUBSCRIPTS and isinstance(args[0], There):
            args = (args[0], _index(args[1]), *args[2:])
        return function(*args, **kwargs)


def _index(key: Any) -> Any:
    """What stands between brackets, with tensors for lists."""
    if isinstance(key, tuple):
        return tuple(map(_index, key))
    return torch.tensor(key) if isinstance(key, list) else key


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """While it lasts, ``cuda:0`` is there."""
    lifted = torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch, _Functions(), _Dispatch():
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "the second device")
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # `torch.tensor(..., device=)` makes one on the CPU and moves it
        try:
            yield DEVICE
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)


class SecondDevice(SingleDeviceStrategy):
    """``--trainer.strategy second``, beside the accelerator for CPUs."""

    def __init__(self) -> None:
        super().__init__(DEVICE)

    def setup_environment(self) -> None:
        """There is nothing to set up; the accelerator would miss a CPU."""


if "second" not in StrategyRegistry:
    StrategyRegistry.register("second", SecondDevice, "the second device of tests")
