"""What ``guda app`` refuses before it listens."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest

from guda_lightning import Scoring, open_run
from guda_lightning.app.answers import Answers
from guda_lightning.cli.main import main
from guda_lightning.scores.views import views
from guda_lightning.stages.opened import Configured
from toys import message, save_guidance

CONF = Path(__file__).parents[1] / "conf"
SCORING = Scoring(strata=48)  # as many as the timesteps of the toy that can be scored


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["app", *map(str, arguments)]) == 2
    return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _refused(capsys, tmp_path / "none")
    assert error.startswith(f"{tmp_path / 'none'} is no run folder\n  found:    nothing at")


def test_a_run_without_a_posterior_and_another_operator(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "guda guide" in _refused(capsys, finished_run, "--port", 0)
    pytest.importorskip("starlette", reason="the extra app is not installed")
    error = _refused(capsys, finished_run, "--port", 0, "--by", "guided")
    assert re.match(
        message(
            "guda app answers by a posterior, from which every counterfactual follows at once",
            "--by guided",
            "guidance, classifier, image_kernel, patch_kernel, recalibrated",
            "pass --by guidance; guda attribute scores by other counterfactuals",
        ),
        error,
    )


def test_a_full_model_elsewhere_is_opened_by_the_configuration(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("starlette", reason="the extra app is not installed")
    made = open_run(finished_run)
    save_guidance(finished_run / "store", made.full, made.data)
    full = shutil.move(finished_run / "full", tmp_path / "model")
    for name in ("record.json", "seal.json"):
        (tmp_path / "model" / name).unlink()  # as others' models are
    assert "pass -c with the configuration of this run" in _refused(capsys, finished_run, "--port", 0)
    served: list[Configured] = []
    monkeypatch.setattr("guda_lightning.app.server.serve", lambda run, *where: served.append(run))
    named = ["-c", str(CONF / "digits.yaml"), "--full", str(full)]
    assert main(["app", str(finished_run), "--port", "0", *named]) == 0
    (run,) = served
    assert run.folder.root == finished_run and run.full.hash == made.full.hash
    answers = Answers(run, "guidance")
    assert answers.examples.queries is not None
    query = answers.examples.queries.take([0])
    values = next(answers.parts(query, True, lambda evaluations: None)).values
    table = made.attribute(finished_run / "queries", by="guidance", scoring=answers.worth.scoring or SCORING)
    view = views(table)[0]
    assert values["first"] == view.groups[int(view.scores[0].argmax())]


def test_the_full_model_goes_with_a_configuration(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette", reason="the extra app is not installed")
    expected = message(
        "--full goes with a configuration, which says what the model was trained on",
        "--full mine",
        "-c FILE beside it",
        "add -c with the configuration of this run, or leave out --full",
    )
    assert re.match(expected, _refused(capsys, finished_run, "--full", "mine"))


def test_a_port_that_is_taken(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"guda app cannot listen on 127.0.0.1, port {port}" in _refused(
            capsys, finished_run, "--port", port
        )


def test_a_missing_extra(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.cli.app.find_spec", lambda name: None)
    error = _refused(capsys, finished_run)
    assert error.endswith('fix:      pip install "guda-lightning[app]"')
