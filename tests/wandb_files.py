"""What W&B has on disk after offline runs, read back with its own reader."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from wandb.util import get_core_path

from guda_lightning.storage.files import read_json

_LOOKS = 30


class WandbFiles:
    """One offline run, from the files of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = whole_records(folder)
        self.whole = json.loads(_inspect(folder, "--summary", "--json"))

    @property
    def about(self) -> tuple[str | None, str | None, str]:
        """W&B group, job type and name."""
        run = self.records["run"][0]
        return run.get("run_group"), run.get("job_type"), run["display_name"]

    @property
    def config(self) -> dict[str, Any]:
        return self.whole["config"]

    def history(self, name: str) -> list[tuple[float, Any]]:
        """Rows (step, value) of a scalar or of one field of a picture."""
        rows = [row["item"] for row in self.records["history"]]
        return [(row["trainer/global_step"], row[name]) for row in rows if name in row]

    def artifact(self, name: str) -> dict[str, Any]:
        """An artifact that was logged: its type, metadata and contents, by path."""
        (found,) = (one for one in self.records["artifact"] if one["name"] == name)
        contents = {entry["path"]: entry for entry in found["manifest"]["contents"]}
        return {**found, "metadata": json.loads(found["metadata"]), "contents": contents}

    def picture(self, name: str) -> np.ndarray[Any, Any]:
        (file,) = self.whole["summary"][name]["filenames"]
        return np.asarray(Image.open(self.folder / "files" / file).convert("RGB"))

    def table(self, name: str) -> tuple[list[str], list[list[Any]], list[np.ndarray[Any, Any]]]:
        """Columns, rows, and the thumbnails among them, as they would be uploaded."""
        value = self.whole["summary"][name]
        written = read_json(self.folder / "files" / value["path"])
        logged = [
            entry for artifact in self.records["artifact"] for entry in artifact["manifest"]["contents"]
        ]
        files = {entry["path"]: entry["local_path"] for entry in logged if "local_path" in entry}
        uploaded = json.loads(Path(files[f"{name}.table.json"]).read_text())
        pictures = [column for column, title in enumerate(uploaded["columns"]) if title == "image"]
        images = [np.asarray(Image.open(files[row[c]["path"]])) for row in uploaded["data"] for c in pictures]
        return written["columns"], written["data"], images


def whole_records(folder: Path) -> dict[str, list[Any]]:
    """Records by kind: finish() returns a moment before the file is whole; that of a kill never is."""
    for _ in range(_LOOKS):
        records = _records(folder)
        if "exit" in records:
            break
        time.sleep(0.1)
    return records


def _records(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for line in _inspect(folder, "--json").splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


def _inspect(folder: Path, *options: str) -> str:
    (file,) = folder.glob("run-*.wandb")
    # What `wandb leet inspect` calls, without the second that its own start takes.
    command = [get_core_path(), "leet", "inspect", "--no-observability", *options, "--run-file", file, folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def runs(folder: Path) -> dict[str, WandbFiles]:
    found = [WandbFiles(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]
    named = {run.about[2]: run for run in found}
    assert len(named) == len(found)
    return named
