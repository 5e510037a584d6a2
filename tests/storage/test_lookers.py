"""Those who look at what another process makes: they take nothing away, and nothing stops them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch

from guda_lightning.attribution.gradients.parts import Parts
from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import StoreError
from guda_lightning.makers import training
from guda_lightning.stages.partitions import Partitions
from guda_lightning.storage import files, leftovers, seals
from guda_lightning.storage.files import atomic_folder, temporary_name
from guda_lightning.storage.leftovers import tidy
from guda_lightning.storage.sealed import read_sealed
from guda_lightning.storage.seals import folder_fault, intact, intact_work, sealed_folder
from toys import message

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Second(Ranks):
    """The second of two processes, which is told what the first one has found."""

    rank: int = 1
    count: int = 2
    told: Any = ()

    def broadcast(self, value: _Value) -> _Value:
        return value if isinstance(value, bool) else self.told

    def barrier(self) -> None:
        pass


def damaged(folder: Path) -> Path:
    with sealed_folder(folder) as new:
        (new / "trainer.ckpt").write_bytes(b"abc")
    (folder / "trainer.ckpt").write_bytes(b"abd")
    return folder


def test_what_a_looker_holds_before_it_is_locked_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = files.try_lock, list[Path]()

    def held(descriptor: int) -> bool | None:
        if seen:
            return lock(descriptor)
        seen.extend(tmp_path.iterdir())
        looker = os.open(seen[0], os.O_RDONLY)  # who removes it next
        fcntl.flock(looker, fcntl.LOCK_EX)
        found = lock(descriptor)
        os.close(looker)
        return found

    monkeypatch.setattr(files, "try_lock", held)
    with atomic_folder(tmp_path / "full") as folder:
        assert folder != seen[0]
        (folder / "file").touch()
    monkeypatch.undo()
    tidy(tmp_path)
    assert os.listdir(tmp_path) == ["full"]


def test_what_is_removed_before_it_is_opened_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = os.open, list[Path]()

    def swept(path: Any, *arguments: Any, **named: Any) -> int:
        if not seen and Path(path).suffix == ".tmp":
            seen.append(Path(path))
            seen[0].rmdir()
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", swept)
    with atomic_folder(tmp_path / "full") as folder:
        (folder / "file").touch()
    assert seen and os.listdir(tmp_path / "full") == ["file"]


@pytest.mark.parametrize("place", ["history", "replay"])
def test_leftovers_beside_records_are_removed(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir()
    temporary_name(tmp_path / place / "0001-fit-0123.json").touch()
    tidy(tmp_path)
    assert os.listdir(tmp_path / place) == []


def test_damaged_work_whose_removal_is_killed_is_removed_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = damaged(tmp_path / "checkpoints" / "fit")
    with monkeypatch.context() as patched:
        patched.setattr(seals, "remove", lambda folder: None)
        assert not intact_work(folder, folder_fault(folder), "it begins again")
    assert len(os.listdir(folder.parent)) == 1
    tidy(tmp_path)
    assert os.listdir(folder.parent) == []


def test_only_the_first_process_looks_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, trainer = ResumeCheckpoint(tmp_path), SimpleNamespace()
    folder = damaged(tmp_path / "resume")
    monkeypatch.setattr(training.Ranks, "of", lambda trainer: Second(told=[None]))
    assert training._found(trainer, checkpoint) is None  # type: ignore[arg-type]
    assert folder.is_dir()
    monkeypatch.setattr(training.Ranks, "of", lambda trainer: Ranks())
    assert training._found(trainer, checkpoint) is None  # type: ignore[arg-type]
    assert not folder.exists()


def test_only_the_first_process_removes_damaged_parts(tmp_path: Path) -> None:
    parts = Parts(tmp_path, {"of": "x"})
    parts.make(["a"], lambda _: {"x": torch.ones(2)}, Ranks())
    (path,) = tmp_path.rglob("a.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    parts.make(["a"], lambda _: {"x": torch.ones(2)}, Second(told=[]))
    with pytest.raises(StoreError, match=f"{path} is damaged"):
        parts.load("a")
    parts.make(["a"], lambda _: {"x": torch.ones(2)}, Ranks())
    assert parts.load("a")["x"].equal(torch.ones(2))


@pytest.mark.parametrize("what", ["folder", "device"])
def test_what_is_no_file_is_refused_and_stays(tmp_path: Path, what: str) -> None:
    path = tmp_path / "cache.json"
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    text = message(f"{path} cannot be read", "a folder, a pipe or a device", "a sealed file", "remove it")
    with pytest.raises(StoreError, match=text):
        read_sealed(path, "remove it")
    assert not intact(path, "it is made again")
    assert path.exists()


def test_pipes_in_a_run_folder_stop_nobody(tmp_path: Path) -> None:
    (tmp_path / ".locks").mkdir()
    os.mkfifo(tmp_path / ".locks" / "full.lock")
    os.mkfifo(tmp_path / "record.json")
    program = (
        "import sys; from pathlib import Path\n"
        "from guda_lightning.storage.locks import at_work\n"
        "from guda_lightning.storage.seals import fault\n"
        "run = Path(sys.argv[1])\n"
        "print(at_work(run), fault(run / 'record.json').found)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout == "[] a folder, a pipe or a device\n"


def test_models_of_a_partition_that_are_half_removed_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Context:
        data: Any = None
        grouping: Any = None
        store: Any = None
        cache: Any = None

    class Maker:
        def elsewhere(self, view: Any, store: Path) -> Any:
            return SimpleNamespace(make_all=lambda: (store / "model").mkdir(parents=True))

    class Attributor:
        def fit(self, context: Any) -> Any:
            return SimpleNamespace(score=lambda queries: "scores")

    grouping = SimpleNamespace(permuted=lambda number, name: None)
    data = SimpleNamespace(grouping=grouping, regrouped=lambda grouping: SimpleNamespace(grouping=grouping))
    removed: list[Path] = []
    monkeypatch.setattr(leftovers, "remove", removed.append)
    made: Any = {"attributor": Attributor(), "maker": Maker(), "context": Context(), "data": data}
    one = Partitions(count=1, queries=None, folder=tmp_path, **made)  # type: ignore[arg-type]
    assert one._score(0) == "scores"
    assert not (tmp_path / "store").exists() and len(removed) == 1  # a kill now leaves no half of a model
