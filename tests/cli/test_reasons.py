"""What jsonargparse, YAML, Lightning and others refuse: what was found, what was expected, and the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import wandb

from guda_lightning.cli.main import main
from guda_lightning.cli.parser_reasons import refusal
from guda_lightning.cli.reasons import explained
from guda_lightning.errors import ConfigError, GudaError, StoreError
from toys import message

CONF = Path(__file__).parents[1] / "conf"
DIGITS = str(CONF / "digits.yaml")
UNET = "model.init_args.denoiser.init_args"
HELP = "`guda fit --help` explains the options"
NO_CLASS = "the import path of a class, such as guda_lightning.DiffusionModule"
OWN_MODULE = "correct class_path; a module of your own is found in the folder where guda is started"
SHOWN = "`guda fit ... --print_config` shows all values"
BUILT = "arguments that the trainer, the model and the data accept"
CANNOT = "the configuration cannot be built"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    return err[err.index("error: ") + len("error: ") :].removesuffix("\n")


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        (b"", "an empty file", "sections such as `trainer:` and `model:`"),
        (b"# nothing\n", "an empty file", "sections such as `trainer:` and `model:`"),
        (b"[1, 2]\n", "a list", "sections such as `trainer:` and `model:`"),
        (b"hello\n", "a text", "sections such as `trainer:` and `model:`"),
        (
            b"trainer: [1, 2]\n",
            "trainer: a list",
            "options below `trainer:`, each on a line of its own, further right",
        ),
        (
            b"trainer:\n# max_steps: 3\n",
            "trainer: nothing",
            "options below `trainer:`, each on a line of its own, further right",
        ),
        (
            b"trainer: 1e5\n",
            "trainer: a text",
            "options below `trainer:`, each on a line of its own, further right",
        ),
        (
            b"data: 3\n",
            "data: a number",
            "options below `data:`, each on a line of its own, further right",
        ),
        (
            b"model:\n  class_path: A\n  init_args:\n    # seed: 3\n",
            "model.init_args: nothing",
            "arguments below `init_args:`, or no such line",
        ),
        (b"trainer:\n\tmax_steps: 3\n", "line 2: a tab", "blanks: YAML indents by them alone"),
        (
            b"trainer:\n  max_steps: 3\n  max_steps: 4\n",
            "line 3, max_steps stands in lines 2 and 3: max_steps: 4",
            "YAML that names everything once",
        ),
        (
            b"trainer:\n  max_steps: 3\nrun: a\ntrainer:\n  max_epochs: 3\n",
            "line 4, trainer stands in lines 1 and 4: trainer:",
            "YAML that names everything once",
        ),
        (
            b"trainer: {max_steps: 3\n",
            "line 2, expected ',' or '}', but got '<stream end>'",
            "YAML that names everything once",
        ),
        (
            b"trainer: *a\n",
            "line 1, found undefined alias 'a': trainer: *a",
            "YAML that names everything once",
        ),
        (
            b"run: a\n---\nrun: b\n",
            "line 2, but found another document: ---",
            "YAML that names everything once",
        ),
        (b"[" * 5000, "values nested too deeply, or within themselves", "a configuration"),
        (b"a: &a {b: *a}\n", "values nested too deeply, or within themselves", "a configuration"),
        ("run: a\n".encode("utf-16"), "UTF-16: byte 0 is 0xff", "UTF-8 text"),
        (b"\x00\xff\xfe", "no text: byte 1 is 0xff", "UTF-8 text"),
        (b"run: \xff\n", "no UTF-8: byte 5 is 0xff", "UTF-8 text"),
    ],
)
def test_a_file_that_is_no_configuration(
    content: bytes, found: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    fix = "correct the file; `guda configs` lists examples"
    pattern = message(f"the configuration {path} cannot be read", found, expected, fix)
    shown = refused(["fit", "-c", DIGITS, "-c", str(path), "--run", f"{tmp_path}/run"], capsys)
    assert re.match(pattern, shown), shown


def test_what_yaml_allows_is_no_error(tmp_path: Path) -> None:
    from guda_lightning.cli.yaml_files import read_config

    path = tmp_path / "a.yaml"
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\ntrainer: &t {max_steps: 3}\n"
    path.write_text(text, "utf-8-sig")
    assert read_config(path) == (
        text,
        {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, "trainer": {"max_steps": 3}},
    )


@pytest.mark.parametrize(
    ("options", "problem", "found", "expected", "fix"),
    [
        (
            [f"--{UNET}.norm_num_groups", "four"],
            f"{UNET}.norm_num_groups has a wrong value",
            "four",
            "int",
            f"correct {UNET}.norm_num_groups; {HELP}",
        ),
        (
            ["--trainer.precision", "7"],
            "trainer.precision has a wrong value",
            "7",
            "one of 64, 32, 16 or one of 'transformer-engine', 'transformer-engine-float16', '16-true', "
            "'16-mixed', 'bf16-true', 'bf16-mixed', '32-true', '64-true' or one of '64', '32', '16', 'bf16'",
            f"correct trainer.precision; {HELP}",
        ),
        (
            ["--model.init_args.optimizer.class_path", "torch.optim.Adem"],
            "model.init_args.optimizer: there is no class torch.optim.Adem",
            "module 'torch.optim' has no attribute 'Adem'",
            NO_CLASS,
            "use torch.optim.Adam",
        ),
        (
            ["--model.init_args.optimizer.class_path", "torch.optim.Adamw"],
            "model.init_args.optimizer: there is no class torch.optim.Adamw",
            "module 'torch.optim' has no attribute 'Adamw'",
            NO_CLASS,
            "use torch.optim.AdamW",
        ),
        (
            ["--model.init_args.denoiser.class_path", "diffusers.Unet2DModel"],
            "model.init_args.denoiser: there is no class diffusers.Unet2DModel",
            "module diffusers has no attribute Unet2DModel",
            NO_CLASS,
            "use diffusers.UNet2DModel",
        ),
        (
            ["--model.class_path", "guda_lightning.DifusionModule"],
            "model: there is no class guda_lightning.DifusionModule",
            "module 'guda_lightning' has no attribute 'DifusionModule'",
            NO_CLASS,
            "use guda_lightning.DiffusionModule",
        ),
        (
            ["--optimizer", "adam"],
            "guda fit has no option --optimizer",
            "--optimizer adam",
            "one that exists",
            "optimizer is an option of guda unlearn, attribute, placebo: leave it out here",
        ),
        (
            ["--trainer.logger", "NopeLogger"],
            "trainer.logger: there is no class NopeLogger",
            "NopeLogger",
            NO_CLASS,
            OWN_MODULE,
        ),
        (
            ["--model.class_path", "torch.nn.Linear"],
            "model is no LightningModule",
            "torch.nn.Linear",
            "`class_path:` of a LightningModule, and its arguments below `init_args:`",
            "correct model; `guda configs` lists examples",
        ),
        (
            ["--model.class_path", "pytorch_lightning.demos.boring_classes.BoringModel"],
            "model is of pytorch_lightning, whose classes are others",
            "pytorch_lightning.demos.boring_classes.BoringModel",
            "a LightningModule of lightning.pytorch",
            "import LightningModule from lightning.pytorch in place of pytorch_lightning",
        ),
        (
            ["--model.class_path", "nowhere.Model"],
            "model: there is no module nowhere",
            "No module named 'nowhere'",
            NO_CLASS,
            f"{OWN_MODULE}, others after `pip install nowhere`",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping"],
            "lightning.pytorch.callbacks.EarlyStopping lacks monitor",
            "no value for it",
            "monitor below init_args",
            HELP,
        ),
        (
            ["--seed_everything", "-1"],
            "seed_everything is out of range",
            "-1",
            "0 <= seed_everything < 2**32, or false for none",
            "pass --seed_everything with such a number",
        ),
        (
            ["--run", "${nope}"],
            "a ${...} of the configuration stands for nothing",
            "run: Interpolation key 'nope' not found",
            "${KEY} of another option, or ${oc.env:NAME} of an environment variable, without a circle",
            "correct run, or write its value",
        ),
        (
            ["--run", "${pretrained}", "--pretrained", "${run}"],
            "a ${...} of the configuration stands for nothing",
            "run: Recursive interpolation detected",
            "${KEY} of another option, or ${oc.env:NAME} of an environment variable, without a circle",
            "correct run, or write its value",
        ),
        (
            [f"--{UNET}.block_out_channels", "[10]"],
            CANNOT,
            "num_channels (10) must be divisible by num_groups (4) (torch/nn/modules/normalization.py:N)",
            BUILT,
            SHOWN,
        ),
        (
            ["--trainer.callbacks+=own_callbacks.Broken"],
            CANNOT,
            f"KeyError: 'mine' ({CONF.parent}/own_callbacks.py:N)",
            BUILT,
            SHOWN,
        ),
        (
            ["--trainer.max_time", "soon"],
            CANNOT,
            "`Timer(duration='soon')` is not a valid duration. Expected a string in the format DD:HH:MM:SS. "
            "(lightning/pytorch/callbacks/timer.py:N)",
            BUILT,
            SHOWN,
        ),
        (
            ["--trainer.gradient_clip_val", "-1"],
            "trainer.gradient_clip_val is out of range",
            "-1",
            "gradient_clip_val >= 0",
            "leave out --trainer.gradient_clip_val, or pass a positive one",
        ),
        (
            ["--trainer.barebones", "true"],
            "a stage needs what trainer.barebones leaves out",
            "barebones: true",
            "the checkpoint that an interrupted training goes on from",
            "remove trainer.barebones",
        ),
        (
            ["--trainer.callbacks+=BatchSizeFinder"],
            "BatchSizeFinder makes a training depend on the memory of the machine",
            "BatchSizeFinder among trainer.callbacks",
            "the batch size that records tell",
            "remove it, and set data.init_args.batch_size",
        ),
        # While training.
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=nope"],
            "lightning refuses the configuration",
            "Early stopping conditioned on metric `nope` which is not available. Pass in or modify your "
            "`EarlyStopping` callback to use any of the following: `train/loss`, `val/loss` "
            "(guda_lightning/makers/training.py:N)",
            "options that go together",
            "correct the option that it names",
        ),
        (
            ["--model.init_args.optimizer.init_args.weight_decay", "-1"],
            "the optimizer or its learning-rate schedule refuses its arguments",
            "Invalid weight_decay value: -1.0 (torch/optim/adam.py:N)",
            "arguments that they accept",
            "correct `optimizer` or `lr_scheduler`; a schedule over trainer.max_steps needs that set, not -1",
        ),
    ],
)
def test_what_is_refused_names_the_innermost_reason(
    options: list[str],
    problem: str,
    found: str,
    expected: str,
    fix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = refused(["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", *options], capsys)
    shown = re.sub(r"\.py:\d+\)", ".py:N)", shown)
    assert re.match(message(problem, found, expected, fix), shown), shown
    assert not (tmp_path / "run" / "full").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "problem", "found", "meant"),
    [
        ("  init_args:", "  init_arg:", "model has no option init_arg", "init_arg", "init_args"),
        (
            "denoiser:",
            "denoisr:",
            "guda_lightning.DiffusionModule has no option denoisr",
            "denoisr",
            "denoiser",
        ),
    ],
)
def test_a_misspelt_key_above_others_is_named(
    right: str,
    wrong: str,
    problem: str,
    found: str,
    meant: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text((CONF / "digits.yaml").read_text().replace(right, wrong, 1))
    shown = refused(["fit", "-c", str(config), "--run", f"{tmp_path}/run"], capsys)
    assert re.match(message(problem, found, meant, f"use {meant}"), shown), shown


@pytest.mark.parametrize(
    ("code", "problem", "found"),
    [
        ("x = 1 / 0", "{name} cannot be imported", r"ZeroDivisionError: division by zero \(.*{name}.py:1\)"),
        ("def :", "{name} cannot be imported", r"SyntaxError: invalid syntax \({name}.py, line 1\)"),
        (
            "from torch import nope",
            "{name} cannot be imported",
            r"ImportError: cannot import name 'nope' from 'torch' \(.*\) \(.*{name}.py:1\)",
        ),
        (
            "import nowhere",
            "nowhere is not installed, or cannot be imported",
            "No module named 'nowhere'",
        ),
    ],
)
def test_an_own_module_that_fails_is_named_with_its_line(
    code: str,
    problem: str,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"failing_{len(code)}"
    (tmp_path / f"{name}.py").write_text(f"{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    shown = refused(
        ["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", "--model", f"{name}.Model"], capsys
    ).splitlines()
    assert shown[0] == problem.format(name=name)
    assert re.fullmatch(f"  found:    {found.format(name=name)}", shown[1])


def test_a_missing_package_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = refused(
        ["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", "--trainer.logger", "MLFlowLogger"], capsys
    )
    assert shown.startswith("mlflow is not installed, or cannot be imported\n  found:    Requirement 'mlflow")
    assert shown.endswith("\n  fix:      pip install mlflow, or configure something else")


@pytest.mark.parametrize(
    ("stage", "text", "name", "default"),
    [
        ("sample", "num:\nsteps: 10\n", "num", 64),
        ("attribute", "scoring: {draws: null}\n", "scoring.draws", 2),
        ("unlearn", "objective:\n  class_path: guda_lightning.unlearning.ReTrack\nsteps: ~\n", "steps", 60),
        ("fit", "data: {init_args: {batch_size: null}}\n", "data.init_args.batch_size", 64),
        ("fit", "model: {init_args: {seed: null}}\n", "model.init_args.seed", 0),
    ],
)
def test_an_option_that_needs_a_value_and_is_left_empty(
    stage: str, text: str, name: str, default: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    files = ["-c", DIGITS, "-c", str(tmp_path / "x.yaml")]
    shown = refused([stage, *files, "--run", str(tmp_path / "run")], capsys)
    assert re.match(
        message(
            f"{name} has no value",
            "null, which an empty place in YAML means",
            f"a value, such as {default}, its default",
            f"write one behind `{name.rpartition('.')[2]}:`, or remove the line",
        ),
        shown,
    ), shown


def test_a_value_that_no_path_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", "-c", DIGITS, "--run", f"{tmp_path}/run"]
    shown = refused([*fit, "--data.init_args.limit", "8\0"], capsys)
    assert shown.startswith("data.init_args.limit has a wrong value\n")
    shown = refused([*fit, "--data.init_args.groups", "g\0.csv"], capsys)
    assert "'g\\x00.csv' cannot be a path\n" in shown


def test_more_than_there_is_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = explained(MemoryError("Unable to allocate 7 TiB"))
    assert str(error).startswith("there is not enough memory\n  found:    Unable to allocate 7 TiB\n")


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B reads its environment once a process."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    shown = refused(
        ["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", "--trainer.logger", "WandbLogger"], capsys
    )
    assert re.match(
        message(
            "W&B has no API key",
            "No API key configured. Use `wandb login` to log in.",
            "an account to log to, or runs that stay on this machine",
            "run `wandb login`, or set WANDB_MODE=offline",
        ),
        shown,
    ), shown


def test_members_of_enumerations_are_configurations(tmp_path: Path) -> None:
    timer = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"]
    assert main(["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", *timer, "--print_config"]) == 0


def test_devices_are_configurations(tmp_path: Path) -> None:
    averaging = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    averaging += ["--trainer.callbacks.swa_epoch_start=1", "--trainer.max_steps=3"]
    assert main(["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", *averaging]) == 0


def test_what_is_no_reason_of_another_library_shows_its_traceback(tmp_path: Path) -> None:
    for name, kind, text in (
        ("Failing", RuntimeError, "^mine$"),
        ("Misusing", ValueError, "must be divisible"),
    ):
        failing = [f"--trainer.callbacks+=own_callbacks.{name}"]
        with pytest.raises(kind, match=text):
            main(["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", *failing])
    for bug in (KeyError("x"), ZeroDivisionError(), AssertionError(), RuntimeError("x"), ValueError("x")):
        assert explained(bug) is None


def test_a_file_of_weights_that_torch_does_not_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "path": tmp_path}, tmp_path / "path.ckpt")
    (tmp_path / "text.ckpt").write_text("no weights")
    for name, found in (
        ("path.ckpt", "Unsupported global: GLOBAL pathlib"),
        ("text.ckpt", "Unsupported operand"),
    ):
        with pytest.raises(Exception) as caught:
            torch.load(tmp_path / name, weights_only=True)
        error = explained(caught.value)
        assert isinstance(error, StoreError) and str(error).startswith("a file of weights cannot be read\n")
        assert found in str(error) and "\x1b" not in str(error)


def test_what_a_disk_refuses(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "a" / "b").mkdir()
    pattern = message(
        f"{tmp_path}/a/b cannot be used",
        "No such file or directory",
        "a file or folder that can be read, or written where it is of a run folder",
        "correct the path, or what lies there and its permissions",
    )
    assert re.match(pattern, str(explained(caught.value)))


def test_a_number_that_fits_nowhere() -> None:
    with pytest.raises(OverflowError) as caught:
        [0] * 10**40
    assert str(explained(caught.value)).startswith(
        "a number is too large\n  found:    cannot fit 'int' into an index-sized integer\n"
    )


def test_a_learning_rate_that_weights_do_not_hold() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    with pytest.raises(RuntimeError) as caught:
        torch.optim.Adam([weight], lr=1e300).step()
    pattern = message(
        "a number is too large",
        "value cannot be converted to type float without overflow",
        "numbers that fit into 32 bits",
        "correct the largest number of the configuration",
    )
    assert re.match(pattern, str(explained(caught.value)))


def test_no_colours_in_messages() -> None:
    error = GudaError("a", found="\x1b[1mbold\x1b[0m", expected="\x1b[2Kb", fix="c")
    assert str(error) == "a\n  found:    bold\n  expected: b\n  fix:      c"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (
            "unrecognized arguments: mine.yaml",
            message(
                "guda fit takes options alone",
                "mine.yaml",
                "guda fit -c FILE [--OPTION VALUE ...]",
                "did you forget -c? guda fit -c mine.yaml",
            ),
        ),
        (
            "unrecognized arguments: --rum x",
            message("guda fit has no option --rum", "--rum x", "--run", "use --run"),
        ),
        (
            "the following arguments are required: model",
            message(
                "guda fit lacks model",
                "a configuration without it",
                "a section `model:`",
                "pass a configuration with -c, such as one that `guda configs` lists",
            ),
        ),
        (
            'Parser key "posterior":\n'
            "  Expected a typing.Literal['guidance', 'classifier']. Got value: clasifier",
            message(
                "posterior has a wrong value",
                "clasifier",
                "one of 'guidance', 'classifier'",
                "did you mean classifier?",
            ),
        ),
        (
            "argument -c/--config: expected one argument",
            message(
                "the configuration is refused",
                "argument -c/--config: expected one argument",
                "options and values that the command accepts",
                f"correct it; {HELP}",
            ),
        ),
    ],
)
def test_what_the_parser_says_at_once(text: str, pattern: str) -> None:
    error = refusal(text, "guda fit", ["--run", "--config"])
    assert isinstance(error, ConfigError) and re.match(pattern, str(error)), error
