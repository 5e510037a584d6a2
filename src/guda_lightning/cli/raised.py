"""What an exception says, and whose code has raised it."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def said_by(error: BaseException) -> str:
    """Its whole message on one line, or its name."""
    return " ".join(str(error).split()) or type(error).__name__


def place_of(error: BaseException) -> str:
    """Where it was raised, ``package/module.py:line``, or the path of a file that no package installs."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    path, line = Path(frames[-1].filename), frames[-1].lineno
    if path.is_relative_to(ROOT):
        return f"{path.relative_to(ROOT.parent)}:{line}"
    installed = path.parts.index("site-packages") + 1 if "site-packages" in path.parts else 0
    return f"{Path(*path.parts[installed:])}:{line}"


def folder_of(path: str) -> str:
    """The package of a source file, of the standard library as well."""
    return Path(path).parent.name


def package_of(error: BaseException) -> str:
    """The installed package whose code has raised it; this one and a user's files are none."""
    place = Path(place_of(error).rpartition(":")[0])
    installed = len(place.parts) > 1 and not place.is_absolute() and place.parts[0] != ROOT.name
    return place.parts[0] if installed else ""


def is_one_of(error: BaseException, *names: str) -> bool:
    """Whether it is of one of these classes, ``package.Name``, or of a class derived from one."""
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(kinds & set(names))


def in_users_code(error: BaseException) -> bool:
    """Whether code of the user's own has led there: its traceback says more than any message."""
    paths = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [position for position, path in enumerate(paths) if path.is_relative_to(ROOT)]
    below = paths[ours[0] :] if ours else []
    known = (ROOT, Path(sysconfig.get_path("stdlib")))
    return any(
        path.is_absolute() and "site-packages" not in path.parts and not any(map(path.is_relative_to, known))
        for path in below
    )


def led_by(error: BaseException) -> str:
    """The last line of this package that led there, for a report of a bug."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
    return f" ({Path(frames[-1].filename).relative_to(ROOT.parent)}:{frames[-1].lineno})" if frames else ""
