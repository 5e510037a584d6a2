"""What other libraries refuse, as errors that say what was found, what was expected, and the fix.

One table of what users bring and others raise. Whatever is not in it is a bug, and shows its traceback.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from guda_lightning.cli.raised import (
    ROOT,
    causes,
    folder_of,
    in_users_code,
    is_one_of,
    led_by,
    package_of,
    place_of,
    said_by,
)
from guda_lightning.errors import ConfigError, GudaError, MissingExtraError, StoreError

# Packages that an extra of this one brings.
_EXTRAS = {
    "altair": "report",
    "jinja2": "report",
    "vl_convert": "report",
    "sklearn": "digits",
    "ray": "ray",
    "peft": "text",
    "transformers": "text",
}
# Whose complaints about a value are those of the configuration.
_LIBRARIES = ("lightning", "lightning_fabric", "lightning_utilities", "jsonargparse", "torchmetrics")
_OF_VALUES = ("torch", "diffusers", "transformers", "peft", "datasets", "wandb", "omegaconf")
_PARSERS = ("json", "yaml", "omegaconf", "jsonargparse")
# What reads a checkpoint of torch or Lightning and hands out its parts.
_RESTORES = ("torch/serialization.py", "connectors/checkpoint_connector.py")
_COMPLAINTS = (ValueError, TypeError, RuntimeError, AttributeError, KeyError, NotImplementedError)


def explained(error: BaseException) -> GudaError | None:
    """The error to show in place of one that another library has raised; None: it is a bug."""
    if isinstance(error, GudaError):
        return error
    return next((found for rule in _RULES if (found := rule(error)) is not None), None)


def not_built(error: BaseException, command: str) -> BaseException:
    """The error to raise where trainer, model or data refuse their arguments: a bug of this package as it is.

    Args:
        error: What was raised, wrapped by jsonargparse.
        command: The command, such as ``guda fit``.
    """
    chain = list(causes(error))
    own = next((one for one in chain if isinstance(one, GudaError)), None)
    raised = own or next((one for one in chain if package_of(one) != "jsonargparse"), error)
    known = own or _missing_package(raised)
    place = place_of(raised)
    if known is not None or (
        place.startswith(f"{ROOT.name}/") and not isinstance(raised, ValueError | TypeError)
    ):
        return known or raised
    kind = f"{type(raised).__name__}: " if isinstance(raised, LookupError) else ""  # says the key alone
    return ConfigError(
        "the configuration cannot be built",
        found=f"{kind}{said_by(raised)} ({place})",
        expected="arguments that the trainer, the model and the data accept",
        fix=f"`{command} ... --print_config` shows all values",
    )


def not_imported(class_path: str) -> GudaError | None:
    """The error to show where the module of a class is there, and fails when it is imported; else None."""
    module = class_path.rpartition(".")[0]
    if not module:
        return None
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return None if f"{module}.".startswith(f"{error.name}.") else _missing_package(error)
    except Exception as error:  # code of the user's: it may raise anything
        place = "" if isinstance(error, SyntaxError) else f" ({place_of(error)})"  # which says it itself
        return ConfigError(
            f"{module} cannot be imported",
            found=f"{type(error).__name__}: {said_by(error)}{place}",
            expected=f"a module with the class {class_path}",
            fix=f"correct it; `python -c 'import {module}'` shows the traceback",
        )
    return None


def _lost_rank(error: BaseException) -> GudaError | None:
    if not isinstance(error, RuntimeError) or "torch" not in sys.modules:
        return None
    from guda_lightning.distributed.ranks import lost_rank

    return lost_rank(error)


def _interpolation(error: BaseException) -> GudaError | None:
    if not is_one_of(error, "omegaconf.OmegaConfBaseException"):
        return None
    said, *more = str(error).splitlines()
    key = next((line.partition(":")[2].strip() for line in more if "full_key" in line), "")
    return ConfigError(
        "a ${...} of the configuration stands for nothing",
        found=f"{key}: {said}" if key else said,
        expected="${KEY} of another option, or ${oc.env:NAME} of an environment variable, without a circle",
        fix=f"correct {key or 'it'}, or write its value",
    )


def _wandb(error: BaseException) -> GudaError | None:
    if not is_one_of(error, "wandb.Error"):
        return None
    if "key" not in str(error).lower():
        return ConfigError(
            "W&B refuses the run",
            found=said_by(error),
            expected="options of WandbLogger that W&B accepts, and a network that reaches it",
            fix="correct trainer.logger.init_args, or set WANDB_MODE=offline",
        )
    return ConfigError(
        "W&B has no API key",
        found=said_by(error),
        expected="an account to log to, or runs that stay on this machine",
        fix="run `wandb login`, or set WANDB_MODE=offline",
    )


def _missing_package(error: BaseException) -> GudaError | None:
    if not isinstance(error, ImportError):
        return None
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if name == "guda_lightning":
        return None
    if name in _EXTRAS:
        return MissingExtraError(name, _EXTRAS[name])
    hints = re.findall(r"pip install (?:-U )?'?([\w.\-\[\]]+)'?", str(error))
    package = hints[-1] if hints else name
    if not package:
        return None
    return ConfigError(
        f"{package} is not installed, or cannot be imported",
        found=said_by(error),
        expected=f"the package {package}, which the configuration needs",
        fix=f"pip install {package}, or configure something else",
    )


def _file(error: BaseException) -> GudaError | None:
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return None
    return StoreError(
        f"{error.filename} cannot be used",
        found=f"{error.strerror}{led_by(error)}",
        expected="a file or folder that can be read, or written where it is of a run folder",
        fix="correct the path, or what lies there and its permissions",
    )


def _system(error: BaseException) -> GudaError | None:
    """What no file is named for: standard output on a full disk, too many open files, no network."""
    if not isinstance(error, OSError) or error.strerror is None:
        return None
    return StoreError(
        "the system cannot read or write",
        found=f"{error.strerror}{led_by(error)}",
        expected="disks with room, for the output as well, and what is read within reach",
        fix="mend what it names, and run the command again: what it has made is kept",
    )


def _text(error: BaseException) -> GudaError | None:
    """A name or a file in another encoding, which no reader of ours has refused."""
    if not isinstance(error, UnicodeError):
        return None
    return StoreError(
        "a text is in another encoding",
        found=f"{ascii(str(error))[1:-1]}{led_by(error)}",
        expected="files in UTF-8, and a system whose names of files are in UTF-8",
        fix="save the file as UTF-8 or rename it; where the locale is C, set PYTHONUTF8=1",
    )


def _nested(error: BaseException) -> GudaError | None:
    reads = any(folder_of(frame.filename) in _PARSERS for frame in traceback.extract_tb(error.__traceback__))
    if not isinstance(error, RecursionError) or not reads:
        return None
    return StoreError(
        "something is nested too deeply",
        found=f"{said_by(error)}{led_by(error)}",
        expected="values a few levels deep",
        fix="correct the value, or the file, that is read there",
    )


def _memory(error: BaseException) -> GudaError | None:
    if not isinstance(error, MemoryError) and not is_one_of(error, "torch.OutOfMemoryError"):
        return None
    return ConfigError(
        "there is not enough memory",
        found=said_by(error).partition(". If reserved")[0],
        expected="room for the model, a batch, and what is drawn at a time",
        fix="lower batch_size and raise trainer.accumulate_grad_batches, or lower the precision",
    )


def _number(error: BaseException) -> GudaError | None:
    digits = isinstance(error, ValueError) and "integer string conversion" in str(error)  # thousands of them
    single = isinstance(error, RuntimeError) and "without overflow" in str(error)  # such as a rate of 1e300
    if not digits and not single and not isinstance(error, OverflowError):
        return None
    return ConfigError(
        "a number is too large",
        found=f"{said_by(error)}{led_by(error)}",
        expected="numbers that fit into 32 bits" if single else "numbers that fit into 64 bits",
        fix="correct the largest number of the configuration",
    )


def _checkpoint(error: BaseException) -> GudaError | None:
    frames = traceback.extract_tb(error.__traceback__)
    restores = any(frame.filename.endswith(_RESTORES) for frame in frames) and not in_users_code(error)
    if not restores and not is_one_of(error, "safetensors_rust.SafetensorError"):
        return None
    reason = re.search(r"WeightsUnpickler error:\s+(.+?)(?:, to |\n|$)", str(error))
    kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""  # says the key alone
    return StoreError(
        "a file of weights cannot be read",
        found=reason[1] if reason else f"{kind}{said_by(error)[:300]}",
        expected="whole weights that torch or safetensors read without running code of the file",
        fix="restore the file, or save its state_dict alone",
    )


def _optimizer(error: BaseException) -> GudaError | None:
    place = place_of(error)
    of_optimizer = isinstance(error, ValueError | TypeError) and place.startswith("torch/optim/")
    if not of_optimizer or in_users_code(error):
        return None
    return ConfigError(
        "the optimizer or its learning-rate schedule refuses its arguments",
        found=f"{said_by(error)} ({place})",
        expected="arguments that they accept",
        fix="correct `optimizer` or `lr_scheduler`; a schedule over trainer.max_steps needs that set, not -1",
    )


def _refused(error: BaseException) -> GudaError | None:
    package = package_of(error)
    if not (
        is_one_of(error, "lightning.MisconfigurationException")
        or (isinstance(error, _COMPLAINTS) and package in _LIBRARIES)
        or (isinstance(error, ValueError | TypeError) and package in _OF_VALUES)
    ) or in_users_code(error):
        return None
    return ConfigError(
        f"{package or 'lightning'} refuses the configuration",
        found=f"{said_by(error)}{led_by(error)}",
        expected="options that go together",
        fix="correct the option that it names",
    )


_RULES: tuple[Callable[[BaseException], GudaError | None], ...] = (
    _lost_rank,
    _interpolation,
    _wandb,
    _missing_package,
    _file,
    _system,
    _text,
    _nested,
    _memory,
    _checkpoint,
    _number,
    _optimizer,
    _refused,
)
