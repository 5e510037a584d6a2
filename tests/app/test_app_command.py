"""What ``guda app`` refuses before it listens."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from guda_lightning.cli.main import main
from toys import message


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
