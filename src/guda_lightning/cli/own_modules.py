"""Modules of the user's own: those in the working folder, where a class path names them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from guda_lightning import compat


class _OwnModules(MetaPathFinder):
    """Finds in the working folder what is found nowhere else, for class paths alone.

    With the folder on ``sys.path`` from the start, any file there that is called like a package which guda
    or one of its libraries tries to import would be run.

    Args:
        folder: The folder that the command was started in: while a configuration is read, the working folder
            is that of its file.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not compat.imports_class_path():
            return None
        spec = PathFinder.find_spec(fullname, [self._folder])
        if spec is not None:
            sys.path.append(self._folder)  # what it imports in turn, also in worker processes
        return spec


def find_own_modules() -> None:
    """Let class paths name modules in the working folder, and take the folder off ``sys.path`` otherwise.

    ``python -m`` puts it there, first; processes that this one starts do not.
    """
    folder = os.getcwd()
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [folder]:
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"
    # A worker runs one command after the other, each in a folder of its own.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _OwnModules)]
    sys.meta_path.append(_OwnModules(folder))
