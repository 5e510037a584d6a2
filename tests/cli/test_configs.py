"""Every YAML that comes with guda is parsed by the stages that it is for, alone and composed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.configs import located
from guda_lightning.cli.every import _is_guided
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.main import main
from guda_lightning.cli.stage import parse
from guda_lightning.errors import GudaError

ROOT = Path(__file__).parents[2]
CONF = Path(__file__).parents[1] / "conf"
EVERY = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
LATENT = ["styles.yaml", "unlearncanvas.yaml"]  # need a pipeline: tests/test_text_to_image.py runs them
COMPLETE = [name for name in EVERY if name not in LATENT]
LATER = ["validate", "sample"]  # stages after fit
ON_A_CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
UNLEARN = sorted(f"unlearn/{path.name}" for path in (ROOT / "configs/unlearn").glob("*.yaml"))
ATTRIBUTE = sorted(f"attribute/{path.name}" for path in (ROOT / "configs/attribute").glob("*.yaml"))
SPREAD = sorted(f"spread/{path.name}" for path in (ROOT / "configs/spread").glob("*.yaml"))
CALLBACKS = sorted(f"callbacks/{path.name}" for path in (ROOT / "callbacks").glob("*.yaml"))
DATA = "--data.init_args.source.init_args.path"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the checkout is in the working directory: files are found in the package."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parsed(capsys: pytest.CaptureFixture[str]) -> Any:
    def parse(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--print_config"])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        config: dict[str, Any] = yaml.safe_load(out)
        return config

    return parse


def options(name: str) -> list[str]:
    """What a user of this configuration has to name: where the images are."""
    return ["-c", name, *([DATA, "train.parquet"] if name.startswith("cifar10") else [])]


def base_of(name: str) -> list[str]:
    return options("cifar10.yaml" if name.endswith("cifar10.yaml") else "digits.yaml")


def test_no_folder_was_forgotten() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert folders == {"configs", "configs/unlearn", "configs/attribute", "configs/retrain", "configs/spread"}
    complete = ["audit.yaml", "cifar10.yaml", "cifar10_gpu.yaml", "cifar10_small.yaml", "digits.yaml"]
    assert [*complete, *LATENT] == EVERY


# Their sections are those of every stage, and each is built below: one file goes through all stages.
@pytest.mark.parametrize(
    ("stage", "name"), [*(("fit", name) for name in COMPLETE), *((stage, COMPLETE[-1]) for stage in LATER)]
)
def test_complete_runs(name: str, stage: str, parsed: Any) -> None:
    config = parsed(stage, *options(name), "--run", "runs/mine", "--seed_everything", 3)
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "runs/mine"  # ${run}
    assert config["model"]["init_args"]["seed"] == config["data"]["init_args"]["seed"] == 3
    assert config["model"]["init_args"]["denoiser"]["class_path"] == "diffusers.UNet2DModel"


@pytest.mark.parametrize(
    ("stage", "name"), [*(("fit", name) for name in LATENT), *((stage, LATENT[-1]) for stage in LATER)]
)
def test_complete_runs_of_pipelines(name: str, stage: str, parsed: Any) -> None:
    config = parsed(stage, "-c", name, "--run", "runs/mine", "--pretrained", "mine", "--seed_everything", 3)
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "runs/mine"
    assert config["data"]["init_args"]["cache"] == "runs/mine/latents"
    assert config["model"]["init_args"]["seed"] == config["data"]["init_args"]["seed"] == 3
    assert config["model"]["init_args"]["pretrained"] == config["data"]["init_args"]["pretrained"] == "mine"


@pytest.mark.parametrize("name", LATENT)
def test_a_pipeline_that_is_not_there_is_refused(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["fit", "-c", name, "--run", "runs/mine", "--pretrained", "empty", *ON_A_CPU]) == 2
    assert capsys.readouterr().err == (
        "error: the pipeline empty cannot be read\n"
        "  found:    a folder with []\n"
        "  expected: a folder that DiffusionPipeline.save_pretrained wrote, or a name on the hub\n"
        "  fix:      correct the path; a hub name needs a connection the first time\n"
    )


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_runs_build_everything_they_name(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Model, data, trainer and loggers are made; only then does sampling find that there is no full model.
    assert main(["sample", *options(name), "--run", "runs/mine", *ON_A_CPU]) == 2
    assert capsys.readouterr().err == (
        "error: the full model does not exist\n"
        "  found:    nothing at runs/mine/full\n"
        "  expected: a diffusers folder or a Lightning checkpoint\n"
        "  fix:      pass --full PATH (full: PATH in the configuration), or train one with `guda fit`\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", UNLEARN)
def test_unlearning(name: str) -> None:
    stage = find("unlearn")
    assert isinstance(stage, Stage)
    # On the digits, which need no files.
    flags = ["-c", name, "--steps", "7", "--run", "mine", "--groups", "3"]
    cli = parse(stage, located(["-c", "digits.yaml", *flags]))
    config = cli.values()
    assert config["steps"] == 7
    objective = config["objective"]["class_path"].rpartition(".")[2]
    expected = "retrack" if name.endswith("cifar10.yaml") else Path(name).stem
    if objective == "Anchor":
        objective = config["objective"]["init_args"]["strategy"]
        expected = "weighted_style" if expected == "unlearncanvas" else expected
    assert objective.lower().replace("_", "") == expected.replace("_", "")
    total = (config["lr_scheduler"] or {}).get("init_args", {}).get("total_steps", 7)
    assert total == 7  # ${steps}
    with pytest.raises(GudaError, match=r"^the full model does not exist\n"):
        cli.run()  # everything that it names is built by then


def test_unlearning_of_cifar10(parsed: Any) -> None:
    config = parsed("unlearn", *options("cifar10.yaml"), "-c", "unlearn/cifar10.yaml")
    assert config["lr_scheduler"]["init_args"]["total_steps"] == config["steps"] == 975
    assert config["data"]["init_args"]["batch_size"] == 128


@pytest.mark.parametrize("name", ATTRIBUTE)
def test_scoring(name: str, parsed: Any) -> None:
    config = parsed("attribute", *base_of(name), "-c", name, "--scoring.seed", 32)
    given = yaml.safe_load((ROOT / "configs" / name).read_text())
    assert {key: config["scoring"][key] for key in given.get("scoring", {})} == given.get("scoring", {})
    assert config["scoring"]["seed"] == 32


def test_similarity(parsed: Any) -> None:
    for stage in ("attribute", "placebo"):
        config = parsed(stage, "-c", "digits.yaml", "-c", "attribute/similarity.yaml")
        assert config["attributor"]["class_path"] == "guda_lightning.PixelSimilarity"


def test_independent_oracles(parsed: Any) -> None:
    assert parsed("retrain", "-c", "digits.yaml")["paired"] is True
    config = parsed("retrain", "-c", "digits.yaml", "-c", "retrain/independent.yaml", "--seeds", "0,1")
    assert (config["paired"], config["seeds"]) == (False, "0,1")


@pytest.mark.parametrize("stage", ["unlearn", "retrain"])
@pytest.mark.parametrize("name", SPREAD)
def test_spreads(stage: str, name: str, parsed: Any) -> None:
    config = parsed(stage, "-c", "digits.yaml", "-c", name)
    given = yaml.safe_load((ROOT / "configs" / name).read_text())["spread"]
    assert config["spread"]["class_path"] == given["class_path"]
    assert config["spread"]["init_args"].items() >= given.get("init_args", {}).items()


@pytest.mark.parametrize("stage", ["fit", "validate", "unlearn"])
def test_callbacks(stage: str, parsed: Any) -> None:
    fragments = [yaml.safe_load((ROOT / name).read_text())["trainer"]["callbacks+"] for name in CALLBACKS]
    config = parsed(stage, "-c", "digits.yaml", *(part for name in CALLBACKS for part in ("-c", name)))
    classes = [each["class_path"] for each in config["trainer"]["callbacks"]]
    assert classes == [callback["class_path"] for (callback,) in fragments]


def test_callbacks_of_several_files_add_up_and_a_later_list_replaces_them(
    parsed: Any, tmp_path: Path
) -> None:
    def names(*files: str) -> list[str]:
        arguments = [part for file in ("digits.yaml", *files) for part in ("-c", file)]
        callbacks = parsed("unlearn", *arguments)["trainer"]["callbacks"]
        return [each["class_path"].rpartition(".")[2] for each in callbacks]

    three = ["ELBOAttributionCallback", "LearningRateMonitor", "ModelCheckpoint"]
    fragments = ["callbacks/learning_rate.yaml", "callbacks/checkpoint.yaml"]
    assert names("unlearn/retrack.yaml", *fragments) == three
    (tmp_path / "stats.yaml").write_text(
        "trainer:\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.DeviceStatsMonitor\n"
    )
    assert names("unlearn/retrack.yaml", *fragments, "stats.yaml") == ["DeviceStatsMonitor"]


def test_later_files_and_flags_win_and_interpolation_follows(parsed: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_steps: 11\nrun: runs/other\n")
    config = parsed("fit", "-c", "digits.yaml", "-c", "mine.yaml")
    assert config["model"]["init_args"]["lr_scheduler"]["init_args"]["total_steps"] == 11
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "runs/other"
    config = parsed("fit", "-c", "digits.yaml", "-c", "mine.yaml", "--trainer.max_steps", 12)
    assert config["model"]["init_args"]["lr_scheduler"]["init_args"]["total_steps"] == 12
    config = parsed("validate", "-c", "digits.yaml", "-c", "callbacks/elbo_attribution.yaml", "--run", "r")
    assert config["trainer"]["callbacks"][0]["class_path"].endswith("ELBOAttributionCallback")
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "r"


def test_a_local_file_hides_the_one_that_comes_with_guda(parsed: Any, tmp_path: Path) -> None:
    shipped = parsed("unlearn", "-c", "digits.yaml", "-c", "configs/unlearn/finetune.yaml")
    (tmp_path / "unlearn").mkdir()
    (tmp_path / "unlearn" / "finetune.yaml").write_text("steps: 5\n")
    local = parsed("unlearn", "-c", "digits.yaml", "-c", "unlearn/finetune.yaml")
    assert (shipped["steps"], local["steps"]) == (60, 5)


def test_a_printed_configuration_is_a_configuration(parsed: Any, tmp_path: Path) -> None:
    config = parsed("unlearn", "-c", "digits.yaml", "-c", "unlearn/retrack.yaml", "--groups", "3,7")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(config))
    assert parsed("unlearn", "-c", "all.yaml") == config


ASKED = ["3,7", '["3","7"]', "3", "null", "~", "1e5", "true", "-x", "#a", "&a", "a: b", "\u00e9", "a\nb", ""]


@pytest.mark.parametrize("asked", ASKED)
def test_names_of_groups_are_taken_as_they_are_written(asked: str, parsed: Any) -> None:
    config = parsed("attribute", "--groups", asked, f"--name={asked}")
    assert config["groups"] == config["name"] == asked


def test_names_of_groups_in_a_file_are_taken_as_they_are_written(parsed: Any, tmp_path: Path) -> None:
    (tmp_path / "named.yaml").write_text(json.dumps({"groups": ASKED}))
    assert parsed("unlearn", "-c", "named.yaml")["groups"] == ASKED


def test_a_text_that_other_readers_of_yaml_take_for_a_number_stays_a_text(parsed: Any) -> None:
    # One in a hundred hashes is such a text; digits.yaml has references, for which values go through YAML.
    options = ("hparams", "operator", "name", "groups")
    given = [word for option in options for word in (f"--{option}", "12e45678")]
    config = parsed("attribute", "-c", "digits.yaml", *given)
    assert {config[option] for option in options} == {"12e45678"}


def test_a_name_on_the_command_line_is_no_reference(parsed: Any) -> None:
    assert parsed("unlearn", "--run", "r", "--groups", "${run},a")["groups"] == "${run},a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainr:\n  max_steps: 3\n", "guda fit has no option trainr.max_steps"),
        ("trainer:\n  max_stepz: 3\n", "trainer has no option max_stepz"),
        ("model:\n  init_args:\n    ema: 0.9\n", "guda_lightning.DiffusionModule has no option ema"),
        ("data:\n  init_args:\n    batchsize: 3\n", "guda_lightning.GroupDataModule has no option batchsize"),
        ("steps: 3\n", "guda fit has no option steps"),  # of another stage
        (
            "trainer:\n  callbacks+:\n    - class_path: lightning.pytorch.callbacks.Timmer\n",
            "trainer.callbacks: there is no class lightning.pytorch.callbacks.Timmer",
        ),
        (
            "model:\n  class_path: guda_lightning.DifusionModule\n",
            "model: there is no class guda_lightning.DifusionModule",
        ),
        (
            "data:\n  class_path: guda_lightning.data.Nope\n",
            "data: there is no class guda_lightning.data.Nope",
        ),
        ("trainer:\n  max_steps: many\n", "trainer.max_steps has a wrong value"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    assert main(["fit", "-c", "digits.yaml", "-c", "wrong.yaml", "--run", "mine"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}\n  found:    ")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]


def test_cifar10_is_the_papers() -> None:
    config = yaml.safe_load((ROOT / "configs/cifar10.yaml").read_text())
    arguments = config["model"]["init_args"]
    network = arguments["denoiser"]["init_args"]
    assert (network["sample_size"], network["layers_per_block"], network["dropout"]) == (32, 3, 0.3)
    assert network["block_out_channels"] == [128, 256, 256, 256]
    attention = ["Attn" in block for block in network["down_block_types"]]
    assert attention == [False, True, True, False]
    assert ["Attn" in block for block in network["up_block_types"]] == attention[::-1]
    assert arguments["scheduler"]["init_args"] == {
        "num_train_timesteps": 4000,
        "beta_schedule": "squaredcos_cap_v2",
    }
    assert arguments["ema_decay"] == 0.9999
    assert config["trainer"]["max_epochs"] == 2600
    data = config["data"]["init_args"]
    assert (data["batch_size"], data["horizontal_flip"]) == (256, True)
    assert arguments["lr_scheduler"]["init_args"]["total_steps"] == 2600 * (50_000 // 256)


def test_the_readme_lists_every_fragment() -> None:
    text = (ROOT / "callbacks/README.md").read_text()
    rows = re.findall(r"^\| `(\w+\.yaml)` \|", text, re.MULTILINE)
    assert sorted(f"callbacks/{row}" for row in rows) == CALLBACKS
    for name in re.findall(r"-c (\S+\.yaml)", text):
        assert (ROOT / name).is_file() or (ROOT / "configs" / name).is_file(), name


def test_every_fragment_appends() -> None:
    for name in CALLBACKS:
        text = yaml.safe_load((ROOT / name).read_text())
        assert list(text) == ["trainer"] and list(text["trainer"]) == ["callbacks+"], name
        assert len(text["trainer"]["callbacks+"]) == 1, name


@pytest.mark.parametrize(("inner", "needs"), [("Guided", True), ("ReTrack", False)])
def test_a_run_makes_the_posterior_of_an_objective_inside_another(
    inner: str, needs: bool, tmp_path: Path
) -> None:
    (tmp_path / "masked.yaml").write_text(
        f"objective:\n  class_path: guda_lightning.unlearning.SalUn\n  init_args:\n    objective:\n"
        f"      class_path: guda_lightning.unlearning.{inner}\n"
        + ("      init_args:\n        store: store\n" if needs else "")
    )
    unlearn = find("unlearn")
    assert isinstance(unlearn, Stage)
    options = located(["-c", "digits.yaml", "-c", str(tmp_path / "masked.yaml"), "--run", str(tmp_path)])
    assert _is_guided(parse(unlearn, Inputs.of("unlearn", options).arguments)) == needs
