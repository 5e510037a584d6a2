"""``guda dashboard``: what is written without a key, and what is sent with one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

from guda_lightning.cli.dashboard import has_key
from guda_lightning.cli.main import main
from guda_lightning.report.log_keys import LOGGED
from guda_lightning.report.wandb import run_in
from guda_lightning.storage.files import read_json
from toys import message
from wandb_files import whole_records
from warm import Server


class Wandb(HTTPServer):
    """W&B as far as a workspace needs it: says whose key it is, and keeps the views that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.views: list[dict[str, Any]] = []


class _Answers(BaseHTTPRequestHandler):
    server: Wandb

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        query = json.loads(body) if self.path == "/graphql" else {"query": ""}
        answer: dict[str, Any] = {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}}
        if "upsertView" in query["query"]:
            self.server.views.append(query["variables"])
            name = query["variables"]["name"]
            answer = {"upsertView": {"view": {"id": "an identity", "name": name}, "inserted": True}}
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Wandb]:
    with Wandb() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb.setup()  # reads the environment once a process: other tests' WANDB_MODE, too
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a run of W&B, and nothing else that a dashboard needs."""
    folder = tmp_path / "digits"
    folder.mkdir()
    wandb.init(project="mine", group="first name", dir=folder, mode="offline").finish()
    (logged,) = folder.glob("wandb/offline-run-*")
    whole_records(logged)
    return folder


def test_without_a_key_it_is_written_with_what_to_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(run)]) == 0
    path = run / "dashboard" / "workspace.json"
    assert capsys.readouterr().out.splitlines() == [
        f"dashboard: no W&B API key here, so {path} holds what is to be sent. To push it:",
        "  1. wandb login   (or set WANDB_API_KEY)",
        f"  2. wandb sync {run}/wandb/offline-run-*   (where runs were logged offline)",
        f"  3. guda dashboard {run}",
    ]
    sent = read_json(path)
    assert (sent["projectName"], sent["displayName"], sent["type"]) == (
        "mine",
        "guda first name",
        "project-view",
    )
    section = sent["spec"]["section"]
    (runs,) = section["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["group", "jobType"]
    assert "first name" in json.dumps(runs["filters"])
    sections = section["panelBankConfig"]["sections"]
    titles = [one["name"] for one in sections]
    assert titles == [one.title for one in LOGGED]
    assert {"Fit", "Unlearn", "Attribution", "Agreement"} <= {
        one["name"] for one in sections if one["isOpen"]
    }
    for one, logged in zip(sections, LOGGED, strict=True):
        shown = json.dumps(one["panels"])
        for key in logged.keys:
            expected = key.key.replace("WEIGHTING", "uniform")
            if key.kind == "number" and key.key != key.key.lower():
                (found,) = re.findall(rf'"(\^{key.key.rpartition("/")[0]}/[^"]*)"', shown)
                names = [other.key for other in logged.keys if other.kind == "number" and other is not key]
                pattern = re.compile(found.replace("\\\\", "\\"))
                expected = key.key.rpartition("/")[0] + "/3"
                assert pattern.match(expected)
                assert not any(pattern.match(name) for name in names)  # which have panels of their own
            else:
                assert f'"{expected}"' in shown


def test_with_a_key_it_is_pushed_and_changed_in_place_afterwards(
    run: Path, server: Wandb, warm: Server, tmp_path: Path
) -> None:
    there = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": "a" * 40,
        "WANDB_MODE": "online",
    }
    for _ in range(2):
        with warm.process(tmp_path / "log", main, ["dashboard", str(run)], **there) as process:
            assert process.wait() == 0, process.log.read_text()
    first, second = server.views
    assert (first["entityName"], first["projectName"], first.get("id")) == ("me", "mine", None)
    assert (second["name"], second["id"]) == (first["name"], "an identity")
    written = read_json(run / "dashboard" / "workspace.json")
    assert json.loads(second["spec"]) == written["spec"]
    address = f"{there['WANDB_BASE_URL']}/me/mine?nw={first['name'][3:-2]}"
    assert f"dashboard: open {address}" in (tmp_path / "log").read_text().splitlines()


def test_what_wandb_has_logged_says_where_it_belongs(run: Path, tmp_path: Path) -> None:
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert run_in(path) == ("mine", "", "first name")
    (tmp_path / "no.wandb").write_bytes(b":W&B" + b"\xff" * 90)
    assert run_in(tmp_path / "no.wandb") is None


def test_a_key_is_found_where_wandb_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_key()
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'a' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert has_key()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not has_key()


def test_what_is_no_run_and_no_project_is_refused(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*arguments: str) -> str:
        assert main(["dashboard", *arguments]) != 0
        return capsys.readouterr().err.strip().removeprefix("error: ")

    expected = {
        (): message(
            "guda dashboard needs a run folder or a project",
            "neither",
            "guda dashboard RUN, or guda dashboard --project PROJECT",
            "name the folder that guda run wrote, or a project in W&B",
        ),
        (str(tmp_path / "no"),): message(
            f"{tmp_path / 'no'} is no run folder",
            f"nothing at {tmp_path / 'no'}",
            "a folder that the stages wrote, with full, store or scores in it",
            "`guda runs` lists those below this folder",
        ),
        (str(finished_run),): message(
            f"{finished_run} does not say which W&B project its runs are in",
            f"no run in {finished_run / 'wandb'}",
            "runs that a WandbLogger has logged there",
            "pass --project PROJECT",
        ),
    }
    for arguments, pattern in expected.items():
        assert re.match(pattern, refusal(*arguments))


def test_a_project_by_itself_shows_every_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["dashboard", "--project", "mine", "--entity", "us"]) == 0
    assert "guda dashboard --project mine --entity us" in capsys.readouterr().out
    sent = read_json(tmp_path / "dashboard" / "mine.json")
    assert (sent["entityName"], sent["displayName"]) == ("us", "guda mine")
    (runs,) = sent["spec"]["section"]["runSets"]
    assert not runs["filters"].get("filters")
