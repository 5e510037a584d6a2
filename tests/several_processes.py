"""Stages through the command line, in one process or in two, which Lightning starts if this is a script."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from guda_lightning import FSDP2Strategy

TESTS = Path(__file__).parent
CONF = TESTS / "conf"
ONE, DDP, FSDP2 = "one", "ddp", "fsdp2"  # one process, and two strategies of two
TWO = (DDP, FSDP2)
BATCH = 16  # of all processes together; there are 16 images a group
QUERIES = 5  # not a multiple of two
TABLES = ("retrack-0", "retrack-1", "guidance-0", "guidance_race-0")
WATCHED = {ONE: ("few", "fixed"), DDP: ("few",), FSDP2: ("fixed",)}  # by the callback, of validation
SCORED = {DDP: ("retrack-0", "guidance_race-0"), FSDP2: ("retrack-1", "guidance-0")}
RESUMED = ((ONE, DDP), (DDP, FSDP2), (FSDP2, ONE))  # each one's checkpoint once, and each goes on once


def rank() -> int:
    """Which of the processes this is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


class StopAfterEpoch(Callback):
    """Ctrl-C in all processes at once, after the first of two epochs is on disk."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


class HoldsItsShare(Callback):
    """Under FSDP2 a process holds half of all weights, the frozen full model's among them."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held = sum(local(weight).numel() for weight in pl_module.parameters())
        share = held / sum(weight.numel() for weight in pl_module.parameters())
        spread = isinstance(trainer.strategy, FSDP2Strategy)
        assert 0.45 < share < 0.6 if spread else share == 1, share


def local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


class Die(Callback):
    """What the operating system does to a process that takes too much memory."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == 3:
            os.kill(os.getpid(), 9)


def stage(name: str, run: Path, strategy: str, *arguments: str, code: int = 0, **trainer: Any) -> None:
    """Run one stage; SGD, because Adam would blow rounding errors of the first steps up."""
    from guda_lightning.cli.main import main

    processes = 1 if strategy == ONE else 2
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.5}}
    source = {"class_path": "toys.Shades"}
    data = {"source": source, "limit": None, "batch_size": BATCH // processes, "probe_per_group": 3}
    shared = {"devices": processes, "strategy": "auto" if strategy == ONE else strategy, "max_steps": 6}
    options = {
        "model": {"init_args": {"optimizer": sgd}},
        "data": {"init_args": data},
        "trainer": {**shared, **trainer},
    }
    run.mkdir(exist_ok=True)
    file = run / f"{name}-{rank()}.yaml"
    file.write_text(yaml.safe_dump(options), "utf-8")
    given = ["-c", str(CONF / "digits.yaml"), "-c", str(file), "--run", str(run), *arguments]
    found = main([name, *given])
    assert found == code, (name, arguments, found)


def whole_run(folder: Path, strategy: str) -> None:
    """Every stage; what trains, draws or logs as another one does, under one strategy of several."""
    run = folder / strategy
    saved = {"save_dir": str(run)}
    kind = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {**saved, "offline": True}}
    wandb = kind if strategy != FSDP2 else False
    held = [{"class_path": "several_processes.HoldsItsShare"}]
    unlearn = ["-c", str(CONF / "unlearn.yaml"), "--steps", "2"]
    unlearn += ["--optimizer", "torch.optim.SGD", "--optimizer.lr", ".05"]
    stage("fit", run, strategy, logger=wandb)
    stage("unlearn", run, strategy, *unlearn, callbacks=held)
    lora = ["--groups", "dark", "--seed", "1", "--lora.rank", "2", "--optimizer.lr", "10"]
    stage("unlearn", run, strategy, *unlearn, *lora, logger=wandb)
    if strategy != FSDP2:
        stage("retrain", run, strategy, "--groups", "dark")
        size = f"--classifier.batch_size={BATCH if strategy == ONE else BATCH // 2}"
        stage("guide", run, strategy, "-c", str(CONF / "guide.yaml"), size)
        stage("sample", run, strategy, "--num", str(QUERIES), "--steps", "4", "--batch_size", "2")
    if strategy == ONE:
        scores(run, strategy, TABLES)
    of = {"operator": "retrack", "scoring": {"strata": 2, "draws": 1}}
    watched = {"few": {**of, "max_queries": 3}, "fixed": {**of, "queries": str(folder / ONE / "queries")}}
    for name in WATCHED[strategy]:
        watch = [{"class_path": "guda_lightning.ELBOAttributionCallback", "init_args": watched[name]}]
        csv = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {**saved, "name": name}}
        stage("validate", run, strategy, callbacks=watch, logger=csv)


def scores(run: Path, strategy: str, tables: Sequence[str]) -> None:
    """Score the same queries in several ways, by the names of their tables."""
    attribute = ["-c", str(CONF / "attribute.yaml"), "--queries", str(run / "queries")]
    race = ["--attributor", "guda_lightning.RacingAttributor", f"--attributor.store={run / 'store'}"]
    how = {
        "retrack-0": ["--operator", "retrack"],
        "retrack-1": ["--operator", "retrack", "--seed", "1", "--groups", "dark"],  # LoRAs
        "guidance-0": ["--operator", "guidance"],
        "guidance_race-0": [*race, "--attributor.rounds=[2,3]"],
    }
    for table in tables:
        stage("attribute", run, strategy, *attribute, *how[table])


def scored_run(folder: Path, strategy: str) -> None:
    """The models of one process, scored by another strategy."""
    run = folder / f"scored-{strategy}"
    if rank() == 0:
        shutil.copytree(folder / ONE, run, ignore=shutil.ignore_patterns("scores", "errors", "wandb"))
    _meet()
    scores(run, strategy, SCORED[strategy])


def stopped_run(folder: Path, strategy: str) -> None:
    stop = [{"class_path": "several_processes.StopAfterEpoch"}]
    stage("fit", folder / f"stopped-{strategy}", strategy, code=130, callbacks=stop)


def resumed_run(folder: Path, stopped: str, strategy: str) -> None:
    run = folder / f"{stopped}-{strategy}"
    if rank() == 0:
        shutil.copytree(folder / f"stopped-{stopped}", run)
    _meet()
    stage("fit", run, strategy)


def _meet() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


class Written:
    """The files of a folder that this process writes itself, by an audit hook of Python's own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = str(folder), set[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "os.rename" or (event == "open" and set(str(arguments[1])) & set("wax+"))
        path = str(arguments[1 if event == "os.rename" else 0]) if writes else ""
        if path.startswith(self.folder) and not any(part.startswith(".") for part in Path(path).parts):
            self.names.add(path)


def everything(folder: Path) -> None:
    """What tests compare with one process, in one of two processes that know of each other."""
    written = Written(folder)
    _few_queries_a_chunk()
    for strategy in TWO:
        whole_run(folder, strategy)
        scored_run(folder, strategy)
        stopped_run(folder, strategy)
    for stopped, strategy in RESUMED:
        if strategy != ONE:
            resumed_run(folder, stopped, strategy)
    (folder / f"written-{rank()}.json").write_text(json.dumps(sorted(written.names)), "utf-8")


def dying(folder: Path, dead: int, strategy: str) -> None:
    """A training of which one process dies."""
    dies = [{"class_path": "several_processes.Die", "init_args": {"rank": dead}}]
    stage("fit", folder, strategy, code=2, callbacks=dies)


def _few_queries_a_chunk() -> None:
    from guda_lightning.attribution import chunks

    chunks.CHUNK_QUERIES = 2  # the last chunk has fewer queries than there are processes


if __name__ == "__main__":  # Lightning starts the second process
    sys.path.insert(0, str(TESTS))
    torch.set_num_threads(1)
    work = Path(sys.argv[1])
    stage("fit", work / "whole", DDP)
    dying(work / "dying", 1, FSDP2)
