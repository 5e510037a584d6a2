"""What users install: the wheel, the sdist, the entry point, and the YAML inside the package."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import resources
from pathlib import Path

import pytest

import guda_lightning

ROOT = Path(__file__).parents[1]
VERSION = guda_lightning.__version__
# What a build reads; everything else in a checkout (virtual environments, runs, caches) is not copied.
BUILD_FOLDERS = ("src", "configs", "callbacks", "yardsticks")
BUILD_FILES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path) -> str:
    # A PYTHONPATH that leads to src/ would hide what is installed.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def yaml_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}


def shipped_files() -> set[str]:
    """Every file of the source folders under the name that it must have in the wheel."""
    package = ROOT / "src" / "guda_lightning"
    inside = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    files = {
        f"guda_lightning/{path.as_posix()}"
        for path in inside
        if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)  # tools' caches
    }
    files |= {f"guda_lightning/configs/{name}" for name in yaml_files(ROOT / "configs")}
    files |= {f"guda_lightning/configs/callbacks/{name}" for name in yaml_files(ROOT / "callbacks")}
    files |= {f"guda_lightning/yardsticks/{path.name}" for path in (ROOT / "yardsticks").glob("*.*")}
    return files | {"guda_lightning/configs/__init__.py", "guda_lightning/configs/callbacks/__init__.py"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel made from an sdist, which proves that the sdist holds all that a build needs."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in BUILD_FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, cwd=source)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return wheel, sdist


def test_every_package_is_listed_in_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    found = [path.parent.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("__init__.py")]
    others = ["guda_lightning.configs", "guda_lightning.configs.callbacks", "guda_lightning.yardsticks"]
    assert listed == sorted([".".join(path.parts) for path in found] + others)


def test_make_installs_the_libraries_of_the_extra_foreign() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = {line.partition(">=")[0] for line in config["options.extras_require"]["foreign"].split()}
    (line,) = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("FOREIGN := ")
    ]
    assert names <= {*line.split()[2:]}


def test_make_install_goes_on_where_a_library_of_the_tests_cannot_be_installed(tmp_path: Path) -> None:
    home, python = tmp_path / "venv", tmp_path / "python"
    making = f'mkdir -p "{home}/bin" && cp "$0" "{home}/bin/python"'
    python.write_text(f'#!/bin/sh\ncase "$*" in *monai*) exit 1;; *" venv "*) {making};; esac\n')
    python.chmod(0o755)
    told = run("make", "install", f"PYTHON={python}", f"VENV={home}", cwd=ROOT)
    assert "monai cannot be installed: the tests that need it will be skipped\n" in told
    assert (home / "installed.stamp").is_file()


def test_wheel_holds_exactly_the_package_and_the_yaml(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    assert wheel.name == f"guda_lightning-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names - {"guda_lightning/configs/callbacks/README.md"} == shipped_files()


def test_sdist_holds_the_top_level_folders(built: tuple[Path, Path]) -> None:
    _, sdist = built
    assert sdist.name == f"guda_lightning-{VERSION}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    yaml = {f"{folder}/{name}" for folder in ("configs", "callbacks") for name in yaml_files(ROOT / folder)}
    assert yaml | {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= names


def test_installed_wheel_answers_and_finds_its_yaml(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, _ = built
    home = tmp_path / "venv"
    venv.create(home)  # without pip: the pip of this environment installs into it
    python = home / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, *install, cwd=tmp_path)
    # Dependencies come from this environment, by a .pth file, instead of a second download of torch.
    # Its own editable install stays out of sight: the .pth files of a folder added that way are not read.
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    Path(folder.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    assert run(home / "bin" / "guda", "--version", cwd=tmp_path).split() == ["guda", VERSION]
    probe = (
        "import importlib.resources as r, pathlib, guda_lightning\n"
        "print(guda_lightning.__file__)\n"
        "folder = pathlib.Path(str(r.files('guda_lightning.configs')))\n"
        "print(*sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*.yaml')))\n"
    )
    where, names = run(python, "-c", probe, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(home)
    expected = yaml_files(ROOT / "configs") | {f"callbacks/{name}" for name in yaml_files(ROOT / "callbacks")}
    assert names.split() == sorted(expected)


def test_editable_install_finds_the_yaml_in_the_checkout() -> None:
    assert Path(str(resources.files("guda_lightning.configs"))) == ROOT / "configs"
    assert Path(str(resources.files("guda_lightning.configs.callbacks"))) == ROOT / "callbacks"


def test_version_does_not_import_torch() -> None:
    probe = "import sys, guda_lightning; print(guda_lightning.__version__, 'torch' in sys.modules)"
    assert run(sys.executable, "-c", probe, cwd=ROOT).split() == [VERSION, "False"]
