"""What is refused or skipped before torch is imported, and what never is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.main import main
from guda_lightning.cli.refusals import refuse_early
from guda_lightning.cli.skipping import complete, fingerprint, remember
from guda_lightning.errors import QueryError
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.history import Step
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.seals import sealed_folder
from toys import edit_json

CONF = Path(__file__).parents[1] / "conf"
DIGITS = str(CONF / "digits.yaml")
HEAVY = {"torch", "lightning", "diffusers", "numpy", "pandas", "jsonargparse"}


def alone(*commands: list[str]) -> tuple[list[int], set[str], str, str]:
    """Exit codes of commands in one process of their own, the heavy packages it imports, what it prints."""
    script = f"""
import json, sys
from guda_lightning.cli.main import main
codes = [main(command) for command in {list(commands)!r}]
print(json.dumps([codes, sorted({HEAVY!r} & sys.modules.keys())]), end="")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    out, _, last = done.stdout.rpartition("\n")
    codes, imported = json.loads(last)
    return codes, set(imported), out, done.stderr


def test_paths_that_do_not_exist_are_refused_without_torch(tmp_path: Path) -> None:
    run, nowhere = str(tmp_path / "run"), str(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    (tmp_path / "full.yaml").write_text(f"full: {nowhere}\n")
    (tmp_path / "start.yaml").write_text(f"trainer:\n  start: {nowhere}\n")
    shared = ["-c", DIGITS, "--run", run]
    commands = [
        ["unlern"],
        ["fit", "-c", "nosuch.yaml"],
        ["fit", "-c", DIGITS, "--run", str(tmp_path / "file")],
        ["fit", *shared, "-c", str(tmp_path / "start.yaml")],
        ["attribute", *shared, f"--queries={nowhere}"],
        ["placebo", *shared, "--queries", nowhere],
        ["sample", *shared, "--full", run, "--full", nowhere],
        ["unlearn", *shared, "-c", str(tmp_path / "full.yaml")],
        ["run", *shared, "--trainer.start", nowhere],
        ["run", *shared, "--queries", nowhere],
        ["fit", "digits.yaml"],
        ["run", "digits.yaml"],
        ["unlearn", *shared, "--group.s", "3"],
        ["fit", *shared, "--trainer.max_stepz", "3"],
        ["report", nowhere],
        ["report", run, "--scroes", nowhere],
        ["evaluate", nowhere],
        ["evaluate", str(tmp_path)],
        ["curate", nowhere],
        ["runs", nowhere],
        ["doctor", nowhere],
    ]
    codes, imported, out, err = alone(*commands)
    assert (codes, imported, out) == ([2] * len(commands), set(), "")
    assert [line for line in err.splitlines() if not line.startswith("  ")] == [
        "error: guda has no command 'unlern'",
        "error: the configuration nosuch.yaml does not exist",
        f"error: the run folder {tmp_path}/file is a file",
        "error: the weights to start from do not exist",
        "error: there are no queries",
        "error: there are no queries",
        "error: the full model does not exist",
        "error: the full model does not exist",
        "error: the weights to start from do not exist",
        "error: there are no queries",
        "error: guda fit takes options alone",
        "error: guda run takes options alone",
        "error: guda unlearn has no option --group.s",
        "error: guda fit has no option --trainer.max_stepz",
        f"error: {nowhere} is no run folder",
        "error: guda report has no option --scroes",
        f"error: {nowhere} is no run folder",
        f"error: {tmp_path} is no run folder",
        f"error: {nowhere} is no run folder",
        f"error: {nowhere} is no folder",
        f"error: {nowhere} is no run folder",
    ]
    assert not Path(run).exists()


def test_what_stages_before_will_write_is_not_missing(tmp_path: Path) -> None:
    inputs = Inputs.of("attribute", ["-c", DIGITS, "--run", f"{tmp_path}", f"--queries={tmp_path}/queries"])
    stage = find("attribute")
    assert isinstance(stage, Stage)
    refuse_early(stage, inputs, ["fit", "sample", "unlearn"])
    with pytest.raises(
        QueryError, match=f"there are no queries\n  found:    nothing at {tmp_path}/queries\n"
    ):
        refuse_early(stage, inputs, ["fit", "unlearn"])


def test_the_last_value_of_an_option_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("run: a\ntrainer:\n  start: x\n  callbacks:\n    - class_path: A\n    - class_path: B\n")
    second.write_text("run: ${base}/b\nseed_everything: 3\n")
    inputs = Inputs.of("fit", ["--run", "zero", "-c", str(first), f"--config={second}"])
    assert inputs.path("trainer.start") == Path("x")
    assert inputs.path("run") is None  # another option decides it
    assert inputs.path("queries") is None
    assert inputs.values["run"] == ["zero", "a", "${base}/b"]
    assert inputs.values["trainer.callbacks.class_path"] == ["A", "B"]
    assert inputs.values["seed_everything"] == [3]
    assert Inputs.of("fit", ["-c", str(second), "--run=last"]).path("run") == Path("last")


def test_a_complete_fit_is_skipped_without_torch(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "-c", DIGITS, "--run", str(finished_run)]
    skipped = f"fit: {finished_run}/full is complete, skipped"
    inputs = Inputs.of("fit", command[1:])
    assert complete(inputs, fingerprint(inputs)) is None  # a copy of a run folder is not trusted
    assert main(command) == 0
    assert capsys.readouterr().out == f"{skipped}\n"
    codes, imported, out, err = alone(command)
    assert (codes, imported, out, err) == ([0], set(), skipped, "")
    record = finished_run / "full" / "record.json"
    edit_json(
        record, lambda value: json.loads(json.dumps(value).replace('"max_steps": 12', '"max_steps": 13'))
    )
    assert main(command) == 2
    assert f"{finished_run}/full was made with another configuration" in capsys.readouterr().err


def fitted(root: Path) -> RunFolder:
    """A run folder with a full model, so far as one looks without torch."""
    run = RunFolder(root)
    record = FullRecord("0" * 64, "1" * 64, {"trainer": {}}, steps=12, seconds=1.0, network_evaluations=1)
    with sealed_folder(run.full) as folder:
        (folder / "record.json").write_text(record.to_json())
        (folder / "weights").write_text("weights")
    Step("fit", str(root), ()).save(run)
    return run


Change = Callable[[Path, list[str], pytest.MonkeyPatch], object]


def _edit(path: Path) -> None:
    path.write_text(path.read_text() + "# another look\n")


def _keep_size_and_time(path: Path) -> None:
    """As an editor that hides its traces: contents count."""
    stat = path.stat()
    path.write_text(path.read_text().replace("max_steps: 12", "max_steps: 13"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, arguments, _: arguments.extend(["--trainer.max_steps", "12"]),
        lambda folder, arguments, _: arguments.append("--print_config"),
        lambda folder, arguments, _: _edit(folder / "mine.yaml"),
        lambda folder, arguments, _: _keep_size_and_time(folder / "mine.yaml"),
        lambda folder, arguments, _: _edit(folder / "run" / "full" / "record.json"),
        lambda folder, arguments, _: (folder / "run" / "full" / "record.json").unlink(),
        lambda folder, arguments, _: (folder / "run" / "full" / "weights").write_text("weighty"),
        lambda folder, arguments, _: (folder / "run" / "full" / "weights").unlink(),
        lambda folder, arguments, _: (folder / "run" / "full" / "seal.json").unlink(),
        lambda folder, arguments, _: shutil.rmtree(folder / "run" / "history"),
        lambda folder, arguments, _: (folder / "run" / ".fit.json").write_text("{"),
        lambda folder, arguments, _: (folder / "cpu").write_text("a file that the parser would read"),
        lambda folder, arguments, patch: patch.chdir(CONF),
        lambda folder, arguments, patch: patch.setenv("CUDA_VISIBLE_DEVICES", "7"),
        lambda folder, arguments, patch: patch.setenv("WORLD_SIZE", "2"),
    ],
)
def test_any_change_goes_the_long_way(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text((CONF / "digits.yaml").read_text())
    run = fitted(tmp_path / "run")
    arguments = ["-c", f"{tmp_path}/mine.yaml", "--run", f"{tmp_path}/run"]

    def known() -> str | None:
        inputs = Inputs.of("fit", arguments)
        return complete(inputs, fingerprint(inputs))

    assert known() is None
    remember(run, fingerprint(Inputs.of("fit", arguments)))
    assert known() == f"{tmp_path}/run/full"
    change(tmp_path, arguments, monkeypatch)
    assert known() is None


@pytest.mark.parametrize(
    "more",
    [
        "model:\n  class_path: mine.Module\n",  # whose code is in no version
        "pretrained: some/pipeline\n",
        "model:\n  init_args:\n    pretrained: some/pipeline\n",
        "run: runs/${oc.env:USER}\n",
        "data: $IMAGES/cats\n",
        "data: ~/images\n",
        *(f"data:\n  path: images/{name}.parquet\n" for name in ("a*", "a?", "[ab]")),
        "seed_everything: true\n",
        "model: parts/model.yaml\n",  # with what the parts above may hold
    ],
)
def test_what_may_depend_on_more_is_never_skipped(more: str, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(more)
    assert fingerprint(Inputs.of("fit", ["-c", DIGITS])) is not None
    assert fingerprint(Inputs.of("fit", ["-c", DIGITS, "-c", str(tmp_path / "more.yaml")])) is None


@pytest.mark.parametrize("spelling", [["-cmine.yaml"], ["--conf", "mine.yaml"], ["--pre=some/pipeline"]])
def test_options_of_another_spelling_are_never_skipped(spelling: list[str]) -> None:
    assert fingerprint(Inputs.of("fit", ["-c", DIGITS, "--trainer.max_epochs", "-1"])) is not None
    assert fingerprint(Inputs.of("fit", ["-c", DIGITS, *spelling])) is None


def test_a_folder_with_linked_folders_is_not_walked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``/``, whose walk takes minutes."""
    (tmp_path / "linked").symlink_to(tmp_path)

    def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        yield str(tmp_path), ["linked"], []
        pytest.fail("walked on")

    monkeypatch.setattr("os.walk", walk)
    assert fingerprint(Inputs.of("fit", ["-c", DIGITS, "--data.init_args.source.init_args.path=/"])) is None


def test_a_run_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    run = fitted(tmp_path / "run")
    run.fit_stamp.mkdir()
    inputs = Inputs.of("fit", ["-c", DIGITS, "--run", f"{tmp_path}/run"])
    remember(run, fingerprint(inputs))
    assert complete(inputs, fingerprint(inputs)) is None


def test_a_damaged_stamp_is_discarded_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted(tmp_path / "run")
    inputs = Inputs.of("fit", ["-c", DIGITS, "--run", f"{tmp_path}/run"])
    remember(run, fingerprint(inputs))
    run.fit_stamp.write_text(run.fit_stamp.read_text().replace("full", "pull", 1))
    assert complete(inputs, fingerprint(inputs)) is None
    assert re.fullmatch(
        rf"{run.fit_stamp} is damaged: contents with sha256 \w+ instead of contents with sha256 \w+, "
        r"its seal; whether fit is complete is found out anew\n",
        capsys.readouterr().out,
    )
    assert not run.fit_stamp.exists()
