"""What of the working folder is run: modules that a class path names, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OWN = """
import {helper}
from guda_lightning.data import Digits

class Mine(Digits):
    pass
"""


def test_a_module_of_the_working_folder_is_run_where_a_class_path_names_it(tmp_path: Path) -> None:
    """So is what it imports, wherever the configuration lies; what libraries try to import is not."""
    (tmp_path / "mine.py").write_text(OWN.format(helper="helper"))
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "ruamel.py").write_text("raise SystemExit('the working folder was searched')")
    (tmp_path / "_jsonnet.py").write_text("raise SystemExit('the working folder was searched')")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.yaml").write_text("data: {init_args: {source: mine.Mine}}")
    options = ("-c", "digits.yaml", "-c", "configs/own.yaml", "--print_config")
    guda = [sys.executable, str(Path(sys.executable).with_name("guda"))]
    shown = subprocess.run([*guda, "fit", *options], cwd=tmp_path, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "class_path: mine.Mine" in shown.stdout


@pytest.mark.parametrize("statement", ["import wanted", "__import__('wanted')"])
def test_a_statement_finds_nothing_in_the_working_folder(tmp_path: Path, statement: str) -> None:
    (tmp_path / "wanted.py").write_text("")
    (tmp_path / "code.py").write_text(
        "import os, sys\n"
        "from guda_lightning.cli.own_modules import find_own_modules\n"
        "sys.path[0] = os.getcwd()\n"
        f"find_own_modules()\n{statement}\n"
    )
    ended = subprocess.run([sys.executable, "code.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'wanted'" in ended.stderr
