"""Guards for every test: a fixed seed, no network, no writes outside temporary folders, and nothing leaks."""

from __future__ import annotations

import gc
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from skips import pytest_terminal_summary  # noqa: F401  (a hook)
from warm import Server

# Libraries set these when they are imported and rely on them from then on.
ENV_OF_IMPORTS = {
    "CUBLAS_WORKSPACE_CONFIG",  # MONAI
    "KMP_DUPLICATE_LIB_OK",  # scikit-learn
    "KMP_INIT_AT_FORK",  # its threadpools
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # Lightning
    "TORCHINDUCTOR_CACHE_DIR",  # torch
}
# Libraries set these while they work: put back after each test, but not refused.
ENV_OF_RUNS = {
    "LOCAL_RANK",  # Lightning's launchers of several processes
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "WORLD_SIZE",
    "PL_GLOBAL_SEED",  # seed_everything, for worker processes
    "PL_SEED_WORKERS",
    "PYTEST_CURRENT_TEST",  # pytest itself
    "WANDB_MODE",  # WandbLogger(offline=True)
    "WANDB_SERVICE",  # W&B's background process
}

# The libraries read these when they are imported, so they are set before any test module is.
_HOME = Path(tempfile.mkdtemp(prefix="guda-tests-"))
os.environ.update(
    HF_HOME=str(_HOME / "huggingface"),
    HF_HUB_OFFLINE="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    WANDB_X_SAVE_REQUIREMENTS="false",  # a list of all packages, for every run
    WANDB_DIR=str(_HOME / "wandb"),
    WANDB_DATA_DIR=str(_HOME / "wandb-data"),
    WANDB_CACHE_DIR=str(_HOME / "wandb-cache"),
    WANDB_CONFIG_DIR=str(_HOME / "wandb-config"),
)
(_HOME / "wandb").mkdir()  # W&B falls back to the system's temporary folder, with a warning, if it is missing


# No deadline: the machine may be busy. --hypothesis-profile=thorough looks for other examples in every run.
settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile("quick")

WARM = pytest.StashKey[Server]()


def _in_memory(descriptor: Any) -> None:
    """In place of ``os.fsync``, which only a power cut tells from nothing."""


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the networks are tiny: a second thread would only wait for the first
    gc.disable()  # until everything is imported, of which nothing becomes garbage
    os.fsync = _in_memory  # waits for the disk a hundred times a run; a killed process loses nothing without


def pytest_sessionfinish(session: pytest.Session) -> None:
    if WARM in session.stash:
        session.stash[WARM].close()


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)  # W&B's background process may still hold a file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # keywords hold the names of folders too
                item.add_marker(pytest.mark.skip(reason="no CUDA device: test on a machine with one"))


def pytest_collection_finish(session: pytest.Session) -> None:
    from lightning.fabric.utilities import registry

    from guda_lightning.diffusion import cost

    registry.entry_points = cache(registry.entry_points)  # every trainer looks through all installed packages
    cost._FEW = cost._MANY = 1  # every stage says what it will cost: how near that comes, benchmarks say
    # Half a million objects of imported libraries stay: the collector need not look at them again and again.
    gc.collect()
    gc.freeze()
    gc.enable()
    if any("warm" in getattr(item, "fixturenames", ()) for item in session.items):
        session.stash[WARM] = Server()  # now: everything is imported, and nothing has run


def seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """What a module or the session shares is the same whichever test comes first, and disturbs none."""
    if fixturedef.scope == "function":
        return (yield)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators(zlib.crc32(fixturedef.argname.encode()))
    try:
        return (yield)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed_generators(0)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Puts back, and reports, what a test changed for the tests after it."""
    environ, folder = dict(os.environ), Path.cwd()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic, grad = torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    yield
    leaks = []
    for name in sorted(environ.keys() | os.environ.keys()):
        if name in ENV_OF_IMPORTS or os.environ.get(name) == environ.get(name):
            continue
        if name not in ENV_OF_RUNS:
            leaks.append(f"environment variable {name}: {environ.get(name)!r} -> {os.environ.get(name)!r}")
        if name in environ:
            os.environ[name] = environ[name]
        else:
            del os.environ[name]
    if Path.cwd() != folder:
        leaks.append(f"working directory: {folder} -> {Path.cwd()}")
        os.chdir(folder)
    if torch.get_default_dtype() != dtype:
        leaks.append(f"torch's default dtype: {dtype} -> {torch.get_default_dtype()}")
        torch.set_default_dtype(dtype)
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        leaks.append(f"torch's deterministic algorithms: {deterministic} -> {not deterministic}")
        torch.use_deterministic_algorithms(deterministic)
    if torch.is_grad_enabled() != grad:
        leaks.append(f"torch's gradients: {grad} -> {not grad}")
        torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)
    if leaks:
        pytest.fail("the test leaked:\n  " + "\n  ".join(leaks), pytrace=False)


CONF = Path(__file__).parent / "conf"


Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder once for all tests of all workers, by its name: to be copied or read, never changed."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / "shared" / name, root / "shared" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(done.with_suffix(".lock")):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a test that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def _finished_run(shared: Shared) -> Path:
    from guda_lightning.cli.main import main

    def make(folder: Path) -> None:
        arguments = ["run", "-c", f"{CONF}/digits.yaml", "--run", str(folder / "tiny")]
        for stage in ("sample", "unlearn", "attribute"):
            arguments += [f"--{stage}", f"{CONF}/{stage}.yaml"]
        assert main(arguments) == 0

    return shared("finished", make) / "tiny"


@pytest.fixture
def finished_run(_finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a run folder in which tests/conf/*.yaml have gone through every stage."""
    return Path(shutil.copytree(_finished_run, tmp_path / _finished_run.name))


@pytest.fixture(scope="session")
def warm(request: pytest.FixtureRequest) -> Server:
    """Starts processes that have imported everything already."""
    return request.session.stash[WARM]
