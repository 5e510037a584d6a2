"""What network evaluations cost, measured."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from guda_lightning.diffusion.calling import adapted, batch_size
from guda_lightning.diffusion.model import DiffusionModel
from guda_lightning.diffusion.weights import evaluating
from guda_lightning.errors import ConfigError, GudaError

_AFFORDABLE = 20.0  # seconds of a batch, as its first sample suggests; a larger one is not tried
_LONG = 3.0  # seconds of a pass of which two are enough
_FEW, _MANY, _ENOUGH = 3, 9, 1.0  # other passes: the median of these, so many in so many seconds
_clock = time.perf_counter  # of estimates; a benchmark of these takes another one
BACKWARD_FACTOR = 3.0  # forward and backward in forward passes, where memory does not allow to measure
_KEY = "guda_lightning.TrainingCost"  # in a checkpoint


class EvaluationCounter:
    """Counts the samples that networks were evaluated on."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Forward hook."""
        self.count += batch_size(output)


@contextmanager
def counting(*networks: nn.Module) -> Iterator[EvaluationCounter]:
    """Count the network evaluations of a block (one sample through one network is one evaluation)."""
    counter = EvaluationCounter()
    with ExitStack() as stack:
        for network in networks:
            stack.callback(adapted(network).register_forward_hook(counter).remove)
        yield counter


class TrainingCost(Callback):
    """What a training costs, over all its processes and, where it was interrupted, all its attempts.

    Checkpoints carry the cost up to the last whole epoch, and a training that goes on from one adds to it.
    What was done after that checkpoint and lost is not counted, nor is the time between two attempts.

    Args:
        *networks: The networks whose evaluations count.

    Attributes:
        seconds: Wall-clock time of this process.
        core_seconds: Seconds of its cores; None where an earlier version began the training.
        evaluations: Samples passed through the networks by all processes, forward passes only.
        finished: Whether the last training came to its end.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self.networks = networks
        self.seconds, self.evaluations, self.finished = 0.0, 0, False
        self.core_seconds: float | None = 0.0
        self._counting = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock; a checkpoint is read after this."""
        if stage == "fit":
            self.seconds, self.evaluations, self.finished = 0.0, 0, False
            self.core_seconds = 0.0
            self._since, self._cores_since = time.perf_counter(), time.process_time()
            self._counter = self._counting.enter_context(counting(*self.networks))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Begin with what earlier attempts cost."""
        if _KEY in checkpoint:
            self.seconds, self.evaluations, *cores = checkpoint[_KEY]
            self.core_seconds = cores[0] if cores else None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Hand on what all attempts cost."""
        # Not in state_dict: Lightning warns about the state of callbacks that another trainer does not have.
        checkpoint[_KEY] = (self.seconds, self.evaluations, self.core_seconds)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this epoch; checkpoints are written after this."""
        self._add(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the rest."""
        self._add(trainer)
        self._counting.close()
        self.finished = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the networks as they were."""
        self._counting.close()

    def _add(self, trainer: Trainer) -> None:
        now, cores = time.perf_counter(), time.process_time()
        self.seconds, self._since = self.seconds + now - self._since, now
        if self.core_seconds is not None:
            self.core_seconds += cores - self._cores_since
        self._cores_since = cores
        counted = torch.tensor(self._counter.count, device=trainer.strategy.root_device)
        self.evaluations += int(trainer.strategy.reduce(counted, reduce_op="sum"))
        self._counter.count = 0


def seconds_per_evaluation(
    model: DiffusionModel,
    shape: Sequence[int],
    batch_size: int,
    device: torch.device | str = "cpu",
    num_classes: int = 1,
) -> float:
    """Measured seconds of one forward pass of one sample, in batches of up to ``batch_size``.

    Args:
        model: The model.
        shape: ``(channels, height, width)``.
        batch_size: The batch size that the work will use.
        device: Where the work will be done.
        num_classes: Classes of the data; the last one is tried.

    Raises:
        ConfigError: The network does not take samples of this shape, or not all timesteps or classes.
    """
    network = copy.deepcopy(model.denoiser).to(device)
    timed = replace(model, denoiser=network)

    def forward(size: int) -> None:
        _output(timed, shape, size, device, num_classes).flatten()[0].item()  # waits for the device

    with evaluating(network), _refusing(timed, shape):
        return _seconds_per_sample(forward, batch_size)


def seconds_per_step(
    model: DiffusionModel,
    shape: Sequence[int],
    batch_size: int,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    num_classes: int = 1,
) -> float:
    """Measured seconds of one training step of one sample: forward, backward and AdamW, in such batches.

    Args:
        model: The model; the weights that are trainable are trained, all where none is.
        shape: ``(channels, height, width)``.
        batch_size: The batch size that the work will use.
        device: Where the work will be done.
        autocast: The precision of forward passes, such as a trainer's ``precision_plugin.forward_context``.
        num_classes: Classes of the data; the last one is tried.

    Raises:
        ConfigError: The network does not take samples of this shape, or not all timesteps or classes.
    """
    try:
        return _seconds_per_step(model, shape, batch_size, device, autocast, num_classes)
    except torch.OutOfMemoryError:  # beside the models that are there already
        pass
    return BACKWARD_FACTOR * seconds_per_evaluation(model, shape, batch_size, device, num_classes)


def _seconds_per_step(
    model: DiffusionModel,
    shape: Sequence[int],
    batch_size: int,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager[Any]],
    num_classes: int,
) -> float:
    network = copy.deepcopy(model.denoiser).to(device).train()
    floats = [weight for weight in network.parameters() if weight.is_floating_point()]  # not quantised ones
    trained = [weight for weight in floats if weight.requires_grad] or floats
    if not trained:
        raise ConfigError(
            f"{type(model.denoiser).__name__} has no weights to train",
            found="no parameters of floating-point numbers",
            expected="a network with some",
            fix="check that denoiser names the network, and that its layers are registered as submodules",
        )
    for weight in trained:
        weight.requires_grad_(True)
    timed, optimizer = replace(model, denoiser=network), torch.optim.AdamW(trained, lr=0.0)

    def step(size: int) -> None:
        optimizer.zero_grad()
        with autocast():
            loss = _output(timed, shape, size, device, num_classes).square().mean()
        loss.backward()
        optimizer.step()
        next(weight for weight in trained if weight.grad is not None).flatten()[0].item()

    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_available()
    gpus = [torch.device(device)] if on_gpu else []
    with torch.enable_grad(), torch.random.fork_rng(gpus), _refusing(timed, shape):  # dropout
        return _seconds_per_sample(step, batch_size)


def _seconds_per_sample(run: Callable[[int], None], batch_size: int) -> float:
    """Seconds of one sample in batches as large as they will be, where it is affordable to try one."""
    run(1)  # the first pass sets things up
    size = max(1, min(batch_size, int(_AFFORDABLE / _seconds(run, 1))))
    first = _seconds(run, size)  # slower than the next ones
    if first > _LONG:
        return min(first, _seconds(run, size)) / size
    passes: list[float] = []
    while len(passes) < _FEW or (len(passes) < _MANY and sum(passes) < _ENOUGH):
        passes.append(_seconds(run, size))
    return statistics.median(passes) / size  # a busy machine makes single passes many times too long


def _seconds(run: Callable[[int], None], size: int) -> float:
    start = _clock()
    run(size)
    return _clock() - start


def _output(
    model: DiffusionModel, shape: Sequence[int], size: int, device: torch.device | str, num_classes: int
) -> Tensor:
    x, zeros = torch.zeros(size, *shape, device=device), torch.zeros(size, dtype=torch.int64, device=device)
    # The last timestep and class, which a table of embeddings may lack.
    timesteps, last = zeros + len(model.schedule) - 1, 0 if model.prompts is not None else num_classes - 1
    return model.output(x, timesteps, zeros + max(0, last) if model.conditional else None)


@contextmanager
def _refusing(model: DiffusionModel, shape: Sequence[int]) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, GudaError):
        raise
    except Exception as error:  # networks raise anything, assertions too
        steps = model.schedule.model_timesteps
        taken = [f"a network for {shape[0]} channels of {shape[2]} x {shape[1]} pixels"]
        taken += [f"{'with' if model.conditional else 'without'} labels"]
        taken += [f"timesteps {steps[0]:g} to {steps[-1]:g} ({str(steps.dtype).removeprefix('torch.')})"]
        raise ConfigError(
            f"{type(model.denoiser).__name__} cannot be called with this data",
            found=" ".join(str(error).split())[:200] or type(error).__name__,
            expected=", ".join(taken),
            fix="make in_channels, out_channels and num_class_embeds of the network, conditional and "
            "scheduler of the module, and channels and image_size of the data fit together",
        ) from error


def readable_seconds(seconds: float) -> str:
    """``"0.42 s"``, ``"8.1 s"``, ``"42 s"``, ``"3 min"``, ``"5.2 h"``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
