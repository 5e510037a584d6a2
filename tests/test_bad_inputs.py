"""Odd inputs, a line each: refused by the whole message and exit code 2, before any work."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from torch import nn

from guda_lightning.cli.main import main
from guda_lightning.cli.reasons import explained
from guda_lightning.data import GroupDataModule, Grouping
from guda_lightning.diffusion import DiffusionModule, bounds
from guda_lightning.diffusion.saved import open_full, open_schedule
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.makers.layout import Layout
from guda_lightning.stages.choices import at_least_one, chosen_groups
from toys import tiny_unet

CONF = Path(__file__).parent / "conf"
LR, UNET = "model.init_args.optimizer.init_args.lr", "model.init_args.denoiser.init_args"
SCHEDULER = "model.init_args.scheduler.init_args"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def said(problem: str, found: object, expected: object, fix: str) -> str:
    return f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    err = capsys.readouterr().err
    return err[err.index("error: ") :]


def stage(name: str, *arguments: object) -> list[str]:
    own = CONF / f"{name}.yaml"
    files = [CONF / "digits.yaml", *([own] if own.is_file() else [])]
    return [name, *(part for file in files for part in ("-c", str(file))), *map(str, arguments)]


# --- numbers


def out_of_range(option: str, found: object, expected: str, fix: str = "") -> str:
    return said(f"{option} is out of range", found, expected, fix or f"correct {option}")


def endless(name: str, found: int) -> str:
    expected = f"{name} >= 1, or -1 where something else ends the training"
    return out_of_range(f"trainer.{name}", found, expected, f"correct --trainer.{name}")


def seed(option: str, found: int) -> str:
    return out_of_range(option, found, f"0 <= {option.rpartition('.')[2]} < 2**63")


def no_number(option: str, found: str, kind: str = "finite number") -> str:
    expected = "a number that something can be computed with"
    return said(f"{option} is no {kind}", found, expected, f"correct {option}")


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("fit", "trainer.max_steps", 0, endless("max_steps", 0)),
        ("fit", "trainer.max_steps", -5, endless("max_steps", -5)),
        ("fit", "trainer.max_epochs", 0, endless("max_epochs", 0)),
        (
            "fit",
            "trainer.max_steps",
            10**30,
            out_of_range("trainer.max_steps", 10**30, "-2**63 <= number < 2**63"),
        ),
        (
            "fit",
            "trainer.resume_every_n_epochs",
            0,
            out_of_range(
                "trainer.resume_every_n_epochs",
                0,
                "resume_every_n_epochs >= 1",
                "correct --trainer.resume_every_n_epochs",
            ),
        ),
        (
            "fit",
            "trainer.log_every_n_steps",
            -1,
            out_of_range(
                "trainer.log_every_n_steps",
                -1,
                "log_every_n_steps >= 0",
                "correct --trainer.log_every_n_steps",
            ),
        ),
        ("fit", "trainer.gradient_clip_val", ".nan", no_number("trainer.gradient_clip_val", "nan", "number")),
        ("fit", "model.init_args.seed", -1, seed("model.init_args.seed", -1)),
        ("fit", "data.init_args.seed", -1, seed("data.init_args.seed", -1)),
        ("sample", "seed", -1, seed("seed", -1)),
        ("unlearn", "seed", -1, seed("seed", -1)),
        ("sample", "counterfactual_seed", -1, seed("counterfactual_seed", -1)),
        ("attribute", "scoring.seed", -1, seed("scoring.seed", -1)),
        (
            "unlearn",
            "seed",
            2**63,
            out_of_range("seed", 2**63, "-2**63 <= number < 2**63"),
        ),
        *(
            (name, option, 10**12, out_of_range(option, 10**12, f"{option.rpartition('.')[2]} <= {most}"))
            for name, option, most in (
                ("fit", "data.init_args.batch_size", "1e+07"),
                ("fit", "data.init_args.image_size", "65536"),
                ("attribute", "scoring.batch_size", "1e+07"),
                ("sample", "batch_size", "1e+07"),
            )
        ),
        ("fit", LR, 0, out_of_range(LR, "0.0", "lr > 0")),
        ("fit", LR, -1, out_of_range(LR, "-1.0", "lr > 0")),
        ("fit", LR, ".nan", no_number(LR, "nan")),
        ("fit", LR, "1e400", no_number(LR, "inf")),
        ("unlearn", "optimizer.init_args.lr", 0, out_of_range("optimizer.init_args.lr", "0.0", "lr > 0")),
        ("unlearn", "optimizer.init_args.lr", ".inf", no_number("optimizer.init_args.lr", "inf")),
        (
            "unlearn",
            "objective.init_args.forget_weight",
            ".inf",
            no_number("objective.init_args.forget_weight", "inf"),
        ),
        *(
            (
                "fit",
                f"{UNET}.layers_per_block",
                value,
                out_of_range(
                    f"{UNET}.layers_per_block",
                    value,
                    "0 <= layers_per_block <= 1000",
                    "correct layers_per_block",
                ),
            )
            for value in (-1, 10**7)
        ),
        *(
            (
                "fit",
                f"{SCHEDULER}.num_train_timesteps",
                value,
                out_of_range(
                    f"{SCHEDULER}.num_train_timesteps",
                    value,
                    "1 <= num_train_timesteps <= 100000",
                    "correct num_train_timesteps",
                ),
            )
            for value in (0, 10**12)
        ),
        (
            "fit",
            f"{UNET}.sample_size",
            -8,
            out_of_range(f"{UNET}.sample_size", -8, "1 <= sample_size <= 65536", "correct sample_size"),
        ),
    ],
)
def test_a_number_that_is_nonsense(
    name: str, option: str, value: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = stage(name, f"--{option}={value}", "--run", tmp_path / "run")
    if name == "unlearn":
        arguments += ["--objective", "guda_lightning.unlearning.ReTrack"]
    assert refused(capsys, *arguments) == message
    assert not (tmp_path / "run").exists()


def test_seeds_of_too_many_digits(tmp_path: Path) -> None:
    from guda_lightning.stages.choices import chosen_seeds

    assert chosen_seeds(f"{10**18 - 1}") == [10**18 - 1]
    with pytest.raises(ConfigError) as error:
        chosen_seeds(f"0,{10**18}")
    assert f"error: {error.value}\n" == said(
        "the seeds are not usable",
        f"0,{10**18}",
        "whole numbers of at least 0, of at most 18 digits",
        "pass them as --seeds 0,1,2",
    )


# --- networks


class Deep(nn.Module):
    """As many layers as it is told."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))


def test_a_network_of_too_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST_MODULES", 100)
    with bounds.bounded():
        assert len(Deep(90, 1).layers) == 90
    with pytest.raises(ConfigError) as error, bounds.bounded():
        Deep(110, 1)
    assert f"error: {error.value}\n" == said(
        "the network has too many layers",
        "more than 100 modules, the last one a Linear",
        "at most 100",
        "correct the number of layers, or of channels, of the network",
    )
    assert len(Deep(110, 1).layers) == 110  # no hook is left


def test_a_network_that_no_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_memory", lambda: 10**6)
    with bounds.bounded(), torch.device("meta"):
        Deep(2, 10**4)  # weighs nothing
    with pytest.raises(ConfigError) as error, bounds.bounded():
        Deep(2, 10**3)
    assert f"error: {error.value}\n" == said(
        "the network does not fit into the memory of this machine",
        "weights of 0 GB or more",
        "at most 0 GB",
        "correct the number of layers, or of channels, of the network",
    )


def test_a_network_whose_layers_know_their_size_later() -> None:
    with bounds.bounded():
        network = nn.Sequential(nn.LazyLinear(3))
        assert network(torch.zeros(1, 5)).shape == (1, 3)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "full"
    DDPMPipeline(tiny_unet(), DDPMScheduler(num_train_timesteps=50)).save_pretrained(folder)
    return folder


UNREADABLE = "a folder written by save_pretrained, a Lightning checkpoint, or a file with a state_dict"


@pytest.mark.parametrize(
    ("name", "key", "value", "found"),
    [
        ("unet/config.json", "norm_num_groups", 0, "ZeroDivisionError: integer modulo by zero"),
        (
            "unet/config.json",
            "in_channels",
            None,
            "TypeError: unsupported operand type(s) for %: 'NoneType' and 'int'",
        ),
        (
            "unet/config.json",
            "layers_per_block",
            10**7,
            "layers_per_block is out of range: 10000000",
        ),
        ("unet/config.json", "down_block_types", "x", "ValueError: x does not exist."),
        (
            "scheduler/scheduler_config.json",
            "trained_betas",
            "x",
            "TypeError: new(): invalid data type 'str'",
        ),
        (
            "scheduler/scheduler_config.json",
            "beta_schedule",
            "x",
            "NotImplementedError: x is not implemented",
        ),
        (
            "scheduler/scheduler_config.json",
            "num_train_timesteps",
            10**12,
            "num_train_timesteps is out of range: 1000000000000",
        ),
    ],
)
def test_an_odd_value_in_the_configuration_of_a_stored_network(
    name: str, key: str, value: object, found: str, pipeline: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "full"))
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(StoreError) as error:
        open_full(folder, None)
    assert str(error.value.found).startswith(f"{file}: {found}")
    shown = said(
        "the full model cannot be read",
        error.value.found,
        UNREADABLE,
        "restore the file, or run `guda fit` again",
    )
    assert f"error: {error.value}\n" == shown
    if name.startswith("scheduler"):
        with pytest.raises(StoreError, match="the full model cannot be read"):
            open_schedule(folder)


@pytest.mark.parametrize(
    "value", [{}, None, [], ["diffusers"], 5, ["diffusers", 5], ["diffusers", "ModelMixin"], "x", True]
)
def test_an_odd_class_in_the_index_of_a_stored_model(value: Any, pipeline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline, tmp_path / "full"))
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "unet": value}))
    with pytest.raises(StoreError) as error:
        open_full(folder, None)
    shown = value[1] if isinstance(value, list) and len(value) == 2 else value
    assert f"error: {error.value}\n" == said(
        f"{file} names a class that diffusers does not have",
        str(shown),
        "a network of the installed diffusers",
        "update diffusers, or load the model in your own LightningModule and pass a checkpoint",
    )


# --- configurations

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MANY = "more than 100000 values, each `*` counted as what it stands for, or more than 50 levels"
FEW = "at most 100000 values, 50 levels deep"


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        (BOMB, MANY, FEW),
        (f"a: {'[' * 60}{']' * 60}\n", "values nested too deeply, or within themselves", "a configuration"),
        (f"a: {'[' * 5000}", "values nested too deeply, or within themselves", "a configuration"),
        (
            "trainer: [1]\n",
            "trainer: a list",
            "options below `trainer:`, each on a line of its own, further right",
        ),
        ("#" * 10**6 + "\n", "more than 1000000 bytes", "a configuration"),
        ("a: !!bool x\n", "a tag, such as !!bool, before what it does not fit", "YAML"),
        ("a: !!timestamp x\n", "a tag, such as !!bool, before what it does not fit", "YAML"),
        ("data: 5\n", "data: a number", "options below `data:`, each on a line of its own, further right"),
    ],
)
def test_a_configuration_that_is_no_configuration(
    text: str, found: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    shown = refused(capsys, *stage("fit", "-c", path, "--run", tmp_path / "run"))
    fix = "correct the file; `guda configs` lists examples"
    assert shown == said(f"the configuration {path} cannot be read", found, expected, fix)


@pytest.mark.parametrize("value", [f"{{{','.join(BOMB.splitlines())}}}", "[" * 5000, "x.json"])
def test_a_value_that_is_larger_than_a_configuration(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text("[" * 5000)
    shown = refused(capsys, *stage("fit", "--trainer.callbacks", value, "--run", "run"))
    option = "--trainer.callbacks"
    assert shown == said(f"the value of {option} is too large", MANY, FEW, f"correct {option}")


@pytest.mark.parametrize(
    ("option", "value"), [("name", "a\udcff"), ("run", "r\udcff"), ("queries", "q\udcff")]
)
def test_a_value_that_is_no_utf8(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *stage("attribute", f"--{option}", value)) == said(
        f"the value of --{option} is no UTF-8",
        ascii(value),
        "a text, or a file or folder whose name is one",
        f"correct --{option}, or rename what it names; in a C locale, set PYTHONUTF8=1",
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            "",
            said(
                "guda fit needs a run folder",
                "no run folder in the configuration",
                "a folder to read and write",
                "add `run: runs/mine` to the configuration, or pass --run runs/mine",
            ),
        ),
        (
            "a\0b",
            said(
                "'a\\x00b' cannot be a path",
                "the character NUL in it",
                "the name of a file or folder",
                "write it again",
            ),
        ),
    ],
)
def test_a_run_folder_that_cannot_be(run: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *stage("fit", "--run", run)) == message


@pytest.mark.parametrize(
    "option",
    [
        "run",
        "seed_everything",
        "trainer.max_steps",
        "data.init_args.groups",
        "trainer.callbacks",
        LR,
        "model",
    ],
)
def test_a_reference_to_nothing(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = refused(capsys, *stage("fit", "--run", tmp_path / "run", f"--{option}", "${nope}"))
    section = option.rpartition(".")[0]
    inside = f"'.nope' not found (resolved to '{section}.nope')"  # by a path from there
    found = inside if option.count(".") > 1 and ".init_args." in option else "'nope' not found"
    assert shown == said(
        "a ${...} of the configuration stands for nothing",
        f"{option}: Interpolation key {found}",
        "${KEY} of another option, or ${oc.env:NAME} of an environment variable, without a circle",
        f"correct {option}, or write its value",
    )


# --- other commands


@pytest.mark.parametrize(
    "words",
    [
        ["configs", "--copy", "a\0"],
        ["dashboard", "--project", "a\0"],
        ["app", "run", "--host", "a\0"],
        ["runs", "a\0"],
        ["evaluate", "run", "--wandb", "a\0"],
        ["curate", "run", "--target", "a\0"],
    ],
)
def test_an_argument_that_no_shell_passes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    problem, found = "'a\\x00' cannot be a path", "the character NUL in it"
    assert refused(capsys, *words) == said(problem, found, "the name of a file or folder", "write it again")


@pytest.mark.parametrize("name", ["", "../../x", "a/b", "é\n", "x" * 129])
def test_a_project_that_wandb_does_not_take(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "dashboard", "--project", name) == said(
        "--project is no name in W&B",
        repr(name),
        r"1 to 128 characters, none of them / \ # ? % : or a line break",
        "pass the name that the page of the project shows",
    )
    assert not list(tmp_path.iterdir())


# --- files where folders belong, and the other way round


@pytest.mark.parametrize("place", ["full", "store", "scores", "queries", "checkpoints", "report"])
@pytest.mark.parametrize("name", ["fit", "sample", "unlearn", "attribute", "report", "evaluate", "doctor"])
def test_a_file_where_a_folder_belongs(
    name: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for folder in ("full", "store/a-0"):
        (run / folder).mkdir(parents=True)
        (run / folder / "record.json").write_text("{}")
    if (run / place).exists():
        shutil.rmtree(run / place)
    (run / place).write_text("x")
    words = [name, run] if name in ("report", "evaluate", "doctor") else stage(name, "--run", run)
    message = said(f"{run}/{place} is a file", "a file", "a folder, or nothing", "move it away")
    assert refused(capsys, *words) == message
    assert (run / place).read_text() == "x"


@pytest.mark.parametrize("name", ["unlearn", "manifest"])
def test_a_link_to_nothing_where_a_folder_belongs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that is not there: told once a model is trained, or never, with a manifest of no models."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    (run / "full").mkdir(parents=True)
    (run / "full" / "record.json").write_text("{}")
    (run / "store").symlink_to(disk)
    assert refused(capsys, *([name, run] if name == "manifest" else stage(name, "--run", run))) == said(
        f"{run}/store is a link to nothing",
        f"nothing at {disk}",
        "a folder, or nothing",
        "bring back the disk, or make the folder, that it leads to; or remove the link",
    )
    assert not disk.exists() and not (run / "manifest.json").exists()


def test_a_folder_where_a_file_belongs(tmp_path: Path) -> None:
    from guda_lightning.storage.files import write_atomic

    (tmp_path / "a.json" / "b").mkdir(parents=True)
    with pytest.raises(StoreError) as error:
        write_atomic(tmp_path / "a.json", "{}")
    assert f"error: {error.value}\n" == said(
        f"{tmp_path}/a.json cannot be written", "a folder of that name", "a file, or nothing", "move it away"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# --- groups


@pytest.mark.parametrize("requested", [None, [], "[]", "all"])
def test_all_groups(requested: object) -> None:
    grouping = Grouping.from_labels(["a", "b", "a"], ["a", "b", "empty"])
    assert chosen_groups(grouping, requested) == ["a", "b"]


@pytest.mark.parametrize("requested", ["all", ["all"], " all"])
def test_a_group_that_is_called_all(requested: object) -> None:
    grouping = Grouping.from_labels(["a", "all", "b"])
    assert chosen_groups(grouping, requested) == ["all"]
    assert chosen_groups(grouping, "all,b") == ["all", "b"]
    assert chosen_groups(grouping) == ["a", "all", "b"]


def test_a_group_called_all_that_has_no_samples() -> None:
    grouping = Grouping.from_labels(["a", "b"], ["a", "b", "all"])
    with pytest.raises(GroupError) as error:
        chosen_groups(grouping, "all")
    assert f"error: {error.value}\n" == said(
        "group 'all' has no samples",
        "0 samples",
        "at least 1: removing an empty group changes nothing",
        "leave it out, or raise the limit on the number of samples",
    )


def test_all_among_others_is_a_name() -> None:
    with pytest.raises(GroupError) as error:
        chosen_groups(Grouping.from_labels(["a", "b"]), "all,b")
    assert error.value.problem == "unknown group 'all'"


@pytest.mark.parametrize("name", ["!!bool x", "!!timestamp x", "!!int x", "!!set [x]", "&a *a"])
def test_a_group_that_yaml_stumbles_over(name: str) -> None:
    grouping = Grouping.from_labels([name, "true", "b"])
    assert chosen_groups(grouping, [name]) == [name]
    assert chosen_groups(grouping, [True]) == ["true"]


# --- what other libraries raise


def raised(function: Callable[[], object]) -> str:
    try:
        function()
    except Exception as error:
        explanation = explained(error)
        assert explanation is not None
        return re.sub(r"\.py:\d+", ".py:N", f"error: {explanation}\n")
    raise AssertionError("nothing was raised")


def test_a_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\xff")
    assert raised((tmp_path / "a.txt").read_text) == said(
        "a text is in another encoding",
        "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte",
        "files in UTF-8, and a system whose names of files are in UTF-8",
        "save the file as UTF-8 or rename it; where the locale is C, set PYTHONUTF8=1",
    )


def test_json_that_is_nested_too_deeply() -> None:
    shown = raised(lambda: json.loads("[" * 100_000))
    assert shown == said(
        "something is nested too deeply",
        "maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        "values a few levels deep",
        "correct the value, or the file, that is read there",
    )


def test_a_recursion_of_our_own_is_a_bug() -> None:
    def endless() -> None:
        endless()

    with pytest.raises(RecursionError) as error:
        endless()
    assert explained(error.value) is None


def test_what_the_system_refuses_without_a_file() -> None:
    def full() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert raised(full) == said(
        "the system cannot read or write",
        "Too many open files",
        "disks with room, for the output as well, and what is read within reach",
        "mend what it names, and run the command again: what it has made is kept",
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {}, "pytorch-lightning_version": "x"}, "Invalid version: 'x'"),
        ({"state_dict": {}, "pytorch-lightning_version": "2.0.0"}, "KeyError: 'global_step'"),
        ([1, 2], ""),
        (None, ""),
    ],
)
def test_a_checkpoint_that_lightning_does_not_read(
    content: object, found: str, tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    words = stage("validate", "--ckpt_path", tmp_path / "x.ckpt", "--run", finished_run)
    shown = refused(capsys, *words)
    problem, said_found, expected, fix = shown.splitlines()
    if found:
        assert shown == said(
            "a file of weights cannot be read",
            found,
            "whole weights that torch or safetensors read without running code of the file",
            "restore the file, or save its state_dict alone",
        )
    assert "Traceback" not in shown and all(part.strip() for part in (problem, said_found, expected, fix))


def test_weights_without_names(tmp_path: Path) -> None:
    torch.save({"state_dict": {5: torch.zeros(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(StoreError) as error:
        open_full(tmp_path / "x.ckpt", DiffusionModule(tiny_unet(), DDPMScheduler(num_train_timesteps=50)))
    assert f"error: {error.value}\n" == said(
        "the full model cannot be read",
        f"{tmp_path}/x.ckpt: no state_dict inside, but the keys 'state_dict'",
        UNREADABLE,
        "restore the file, or run `guda fit` again",
    )


@pytest.mark.parametrize("host", ["é" * 70, "x" * 300, "256.1.1.1"])
def test_a_host_that_is_none(host: str, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = refused(capsys, "app", finished_run, "--host", host, "--port", "0")
    problem, found, expected, fix = shown.splitlines()
    assert problem == f"error: guda app cannot listen on {host}, port 0"
    assert found.partition(":")[2].strip()
    assert expected == "  expected: an address of this machine and a free port, 0 to 65535"
    assert fix == "  fix:      pass --port 0 for any free one, or another --host"


# --- plans of timesteps and counts


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("scoring.grid", "[0, 1000000000000, 1]", "1000000000000 strata of 2 draws"),
        ("scoring.strata", "1000000000000", "1000000000000 strata of 2 draws"),
        ("scoring.draws", "0", "5 strata of 0 draws"),
    ],
)
def test_a_plan_that_no_schedule_has(
    option: str, value: str, found: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(finished_run / "scores")
    assert refused(capsys, *stage("attribute", f"--{option}", value, "--run", finished_run)) == said(
        "the timestep plan has too few or too many timesteps",
        found,
        "1 to 48 strata, at least 1 draw, and 2 evaluations for a standard error",
        "choose 2 to 48 strata, or a grid of that many timesteps",
    )


@pytest.mark.parametrize("screen", ["similarity:4", "retrack:4"])
def test_a_screen_for_an_operator_that_has_made_nothing(
    screen: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(finished_run / "scores")
    words = ("--screen", screen, "--operator", "das", "--run", finished_run)
    assert refused(capsys, *stage("attribute", *words)) == said(
        f"no counterfactual in {finished_run / 'store'} was made by das",
        "those of retrack",
        "operator das",
        "pass -c attribute/das.yaml instead of --operator das",
    )
    assert not (finished_run / "scores").exists()  # not those of the screen either


def test_a_screen_for_an_empty_store(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(finished_run / "store")
    shutil.rmtree(finished_run / "scores")
    assert refused(capsys, *stage("attribute", "--screen", "similarity:4", "--run", finished_run)) == said(
        f"there are no counterfactuals in {finished_run / 'store'}",
        "no such folder",
        "one counterfactual for each group",
        "run guda unlearn",
    )
    assert not (finished_run / "scores").exists()


def test_queries_that_are_none_before_anything_is_trained_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given").mkdir()
    words = ("-c", CONF / "digits.yaml", "--run", tmp_path / "run", "--queries", tmp_path / "given")
    assert refused(capsys, "run", *words) == said(
        f"the folder {tmp_path / 'given'} has no images",
        "no file",
        "at least one image",
        "correct the path, or convert the images",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["attribute", "placebo", "groups"])
def test_queries_that_do_not_exist(name: str, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = finished_run / "gone.png"
    assert refused(capsys, *stage(name, "--queries", gone, "--run", finished_run)) == said(
        "there are no queries",
        f"nothing at {gone}",
        "an image file or a folder of images",
        "correct the path",
    )


@pytest.mark.parametrize("name", ["attribute", "placebo"])
def test_queries_that_are_none_before_data_and_model_are_read(
    name: str, finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GroupDataModule, "inputs")
    monkeypatch.delattr(Layout, "open")
    (finished_run / "given").mkdir()
    assert "has no images" in refused(
        capsys, *stage(name, "--queries", finished_run / "given", "--run", finished_run)
    )


def test_steps_that_nobody_waits_for() -> None:
    with pytest.raises(ConfigError) as error:
        at_least_one("steps", 10**12)
    assert f"error: {error.value}\n" == said(
        "steps is out of range", 10**12, "steps <= 1e+07", "pass a lower --steps"
    )


# --- data


@pytest.mark.parametrize("name", ["fit", "unlearn", "guide"])
def test_a_table_of_groups_whose_samples_the_limit_leaves_out(
    name: str, tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "g.jsonl"
    table.write_text("".join(f'{{"id": "{row}", "group": "{"ab"[row % 2]}"}}\n' for row in range(4)))
    run = tmp_path / "new" if name == "fit" else finished_run
    words = stage(name, "--data.init_args.groups", table, "--run", run)
    assert refused(capsys, *words) == said(
        "no group has a sample left",
        "2 groups without any of the 64 samples that data.limit keeps",
        "at least one group with a sample",
        "raise data.limit, or leave it out",
    )


def bomb(path: Path) -> Path:
    """A PNG of 70 bytes that unpacks to 30000 x 30000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: bomb(folder / "bomb.png"),
            said(
                "the query {folder}/bomb.png cannot be read",
                "Image size (900000000 pixels) exceeds limit of 178956970 pixels",
                "complete pictures of 8 bits per channel",
                "repair, convert or remove them",
            ),
        ),
        *(
            (
                lambda folder, text=text: (folder / "metadata.jsonl").write_bytes(text) and folder,
                said(
                    "{folder}/metadata.jsonl, line 1: invalid JSON",
                    text.decode()[:80],
                    'one object per line, such as {{"file_name": "1.png", "label": 3}}',
                    "correct the line",
                ),
            )
            for text in (b"[" * 100_000, b"1" * 5000)
        ),
        (
            lambda folder: (folder / "metadata.jsonl").write_bytes(b"a\xff") and folder,
            said(
                "the metadata of queries {folder}/metadata.jsonl cannot be read",
                "another encoding on line 1, perhaps Windows-1252: aÿ",
                "a readable UTF-8 file",
                "save it as UTF-8",
            ),
        ),
    ],
)
def test_queries_that_cannot_be_read(
    make: Callable[[Path], Path],
    message: str,
    tmp_path: Path,
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(finished_run / "scores")
    folder = Path(shutil.copytree(finished_run / "queries", tmp_path / "q"))
    (folder / "seal.json").unlink()
    (folder / "record.json").unlink()
    words = stage("attribute", "--queries", make(folder), "--run", finished_run)
    assert refused(capsys, *words) == message.format(folder=folder)
