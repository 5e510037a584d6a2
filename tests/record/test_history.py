"""RUN/history: each command notes what it wrote, whoever else works there, and what nobody noted is noted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guda_lightning.errors import StoreError
from guda_lightning.storage import history
from guda_lightning.storage.files import atomic_folder, write_atomic
from guda_lightning.storage.history import Step, noted, steps_of
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.locks import at_work
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import write_json
from guda_lightning.storage.written import files_below, listening


@contextmanager
def command(run: RunFolder, *arguments: str) -> Iterator[None]:
    with noted(run, Step("unlearn", str(run.root), arguments)):
        yield


def written_by(run: RunFolder) -> list[tuple[str, ...]]:
    return [step.files for step in steps_of(run).values()]


def test_two_commands_side_by_side_note_what_each_of_them_wrote(tmp_path: Path) -> None:
    run, code = RunFolder(tmp_path / "run"), "import sys; from guda_lightning.storage.files import *; "
    other = f"{code}write_atomic(sys.argv[1], 'theirs')"
    with command(run, "3"):
        write_atomic(run.scores / "mine.parquet", "mine")
        subprocess.run([sys.executable, "-c", other, str(run.scores / "theirs.parquet")], check=True)
        with atomic_folder(run.store / "a") as folder:
            (folder / "unet").mkdir()
            (folder / "unet" / "model").write_text("mine")
    assert (run.scores / "theirs.parquet").is_file()
    assert written_by(run) == [("scores/mine.parquet", "store/a/unet/model")]


def test_what_is_gone_or_no_result_or_elsewhere_is_not_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("run"))
    with command(run, "3"):
        for name in ("run/scores/a.parts/0", "run/report/index.html", "run-2/x", "run/scores/a", "run/b"):
            write_atomic(Path(name), "1")
        discard(run.scores / "a.parts")
        write_atomic(tmp_path / "run" / "scores" / "a", "written again, by its whole path")
    assert written_by(run) == [("b", "scores/a")]


def test_what_an_interrupted_command_wrote_is_that_of_its_successor_alone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    def begun() -> int:
        return len(list(run.history.glob("*.begun")))

    for name in ("a", "b"):
        with pytest.raises(KeyboardInterrupt), command(run, "3"):
            write_atomic(run.store / name, "1")
            raise KeyboardInterrupt
    assert written_by(run) == [] and begun() == 2
    with command(run, "4"):
        write_atomic(run.store / "c", "1")
    with command(run, "3"):
        write_atomic(run.store / "d", "1")
        with command(run, "3"):  # as side by side: what the other one has written is not its own
            write_atomic(run.store / "e", "1")
    assert written_by(run)[:2] == [("store/c",), ("store/a", "store/b", "store/e")]
    assert begun() == 0
    with command(run, "3"):
        pass
    assert len(written_by(run)) == 3


def test_a_command_that_was_killed_as_it_kept_what_it_wrote(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt), command(run, "3"):
        write_atomic(run.store / "a", "1")
        raise KeyboardInterrupt
    (file,) = run.history.glob("*.begun")
    file.write_bytes(file.read_bytes() + b'"../b"\n"store/\xff"\n"store/')
    write_atomic(run.store / "b", "1")
    write_atomic(tmp_path.with_name("b"), "1")
    with command(run, "3"):
        pass
    assert written_by(run) == [("store/a",)]
    (run.history / file.name).write_text('"store/a"\n')  # killed once it was noted
    with command(run, "3"):
        pass
    assert written_by(run) == [("store/a",)] and not (run.history / file.name).exists()


def test_what_an_earlier_version_wrote_is_noted_by_whoever_may_have_made_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_atomic(run.store / "a", "1")
    for arguments in ("3", "3", "4"):  # 4 finds all of it complete, too, and may have made it
        with command(run, arguments):
            pass
    assert written_by(run) == [(), ()]
    with command(run, "5"):
        write_atomic(run.store / "a", "2")
    with command(run, "6"):
        pass
    assert written_by(run) == [(), (), ("store/a",)]  # nothing is there that nobody has noted


def test_the_folder_is_walked_where_nothing_else_tells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold ten thousand models: a command on one of them is not to look at all."""
    run = RunFolder(tmp_path)
    monkeypatch.setattr(history, "names_in", lambda run: pytest.fail("walked"))
    with command(run, "3"):
        write_atomic(run.store / "a", "1")
    with command(run, "3"):
        pass
    with noted(run, None):
        pass
    assert written_by(run) == [("store/a",)]


def test_a_command_within_another_is_heard_by_both(tmp_path: Path) -> None:
    with listening() as outer:
        with listening() as inner:
            pass
        write_atomic(tmp_path / "a", "1")
    assert (files_below(tmp_path, outer), files_below(tmp_path, inner)) == (["a"], [])


def test_a_yardstick_that_is_unpacked_is_a_folder_that_becomes_whole(tmp_path: Path) -> None:
    with (
        listening() as heard,
        atomic_folder(tmp_path / "run") as folder,
        atomic_folder(folder / "full") as full,
    ):
        (full / "x").write_text("1")
    assert files_below(tmp_path / "run", heard) == ["full/x"]


def test_what_cannot_be_listed_may_be_what_nobody_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)

    def unlisted(run: RunFolder) -> list[str]:
        raise StoreError("RUN/mine cannot be read", found="", expected="", fix="")

    monkeypatch.setattr(history, "names_in", unlisted)
    with command(run, "3"):
        pass
    assert written_by(run) == [()]


def test_the_same_command_twice_side_by_side_takes_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = RunFolder(tmp_path), list[str]()

    def written(path: Path, value: dict[str, object]) -> None:
        seen.extend(owner.path for owner in at_work(run.root))
        write_json(path, value)

    monkeypatch.setattr(history, "write_json", written)
    first, second = (Step("unlearn", str(tmp_path), ()).save(run) for _ in range(2))
    assert seen == ["history", "history"]  # so that nobody else looks for a number meanwhile
    assert [path.name[:13] for path in (first, second)] == ["0001-unlearn-", "0002-unlearn-"]


def test_a_task_of_a_spread_notes_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with noted(run, None):
        write_atomic(run.store / "a", "1")
    assert written_by(run) == []
