"""Much of everything: queries of one command, groups and counterfactuals of a store, rows of a page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks import groupings, streaming
from benchmarks.stages import Asked, Bench, clock
from benchmarks.tables import write_table
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.report.page import Page, PageTable, write_page
from guda_lightning.report.standing import Findings
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.storage.files import write_atomic
from guda_lightning.storage.hashed import SETTLED
from guda_lightning.storage.seals import refuse_damaged_folder, sealed_folder
from guda_lightning.types import Queries

WARM_UP = 0.2  # share of the queries before which memory grows by what is imported and allocated once
"""The first of them are no sign of growth."""
LOOK = 0.2  # seconds between two looks at a process's memory
"""Often enough for hundreds of looks."""
BROWSER = """\
import json, shutil, sys, time
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    path = shutil.which("chromium")
    quiet = ["--no-sandbox", "--disable-gpu"]
    browser = playwright.chromium.launch(executable_path=path, args=quiet)
    tab = browser.new_page()
    tab.set_default_timeout(300_000)
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    start = time.perf_counter()
    tab.goto("file://" + sys.argv[1])
    tab.locator("#cards .row").first.wait_for()
    seconds = time.perf_counter() - start
    cards = tab.locator("#cards > *").count()
    print(json.dumps({"seconds": seconds, "cards": cards, "problems": problems}))
    browser.close()
"""


def run(asked: Asked) -> None:
    """Measure them, the quick ones first; each is kept, not measured again, and in the table from then on."""
    measures: dict[str, Callable[[Asked], list[dict[str, object]]]] = {
        "store": stored,
        "model": model,
        "page": page,
        "queries": queries,
        "groups": groups,
    }
    kept = {name: asked.runs / "load" / "measured" / f"{name}.json" for name in measures}
    for name in asked.methods(measures) if asked.only else measures:
        if not kept[name].is_file():
            write_atomic(kept[name], json.dumps({"rows": measures[name](asked)}))
        _write(asked, [path for path in kept.values() if path.is_file()])


def _write(asked: Asked, kept: list[Path]) -> None:
    rows = [row for path in kept for row in json.loads(path.read_text("utf-8"))["rows"]]
    notes = (
        "Core seconds, but those of the browser and of queries, which are of the clock. Memory is looked at "
        "often; its slope is of least squares after the first fifth of the queries, ± its standard error."
    )
    write_table(asked.docs, "load", asked.command("load"), rows, notes)


def _row(what: str, count: int, measured: str, value: str) -> dict[str, object]:
    return {"what": what, "how many": f"{count:,}", "measured": measured, "value": value}


def _bench(asked: Asked) -> Bench:
    """A tiny model with one counterfactual."""
    bench = streaming.tiny(asked, "load")
    bench.stage("unlearn", "-c", "unlearn/retrack.yaml", "--groups", "0", "--steps", "2")
    return bench


def _copies(store: CounterfactualStore, root: Path, count: int) -> CounterfactualStore:
    """A store with so many counterfactuals, of groups of other names; the one in the middle has weights."""
    (record,) = store.records()
    state, _ = store.load(record.key, expect=None)
    copies = CounterfactualStore(root)
    for number in range(count):
        copy = replace(record, groups=(f"group-{number:05d}",), members_hash=f"{number:064x}", files={})
        if number == count // 2:
            copies.save(state, copy)
        else:
            named = replace(copy, files={"model.safetensors": f"{number:064x}"}, complete=True)
            folder = copies.path(named.key)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "record.json").write_text(named.to_json(), "utf-8")
    return copies


def stored(asked: Asked) -> list[dict[str, object]]:
    """Many counterfactuals are listed, and one of them is opened."""
    count, bench = asked.size.counterfactuals, _bench(asked)
    copies = _copies(CounterfactualStore(bench.run.store), asked.runs / "load" / "many", count)
    listed, records = _seconds(copies.records)
    opened, _ = _seconds(lambda: copies.load(records[count // 2].key, expect=None))
    return [_row("stored counterfactuals", count, "listed and one opened", f"{listed + opened:.2f} s")]


def model(asked: Asked) -> list[dict[str, object]]:
    """A large full model, of one file, is verified twice in one process."""
    numbers, folder = asked.size.weights, asked.runs / "load" / "large"
    with sealed_folder(folder) as new:
        save_file({"weights": torch.zeros(numbers)}, new / "model.safetensors")
    time.sleep(SETTLED)
    first, again = (_seconds(lambda: refuse_damaged_folder(folder, "make it again"))[0] for _ in range(2))
    shutil.rmtree(folder)
    verified = "every bit verified, then looked up in the same process"
    return [_row("numbers of a full model", numbers, verified, f"{first:.1f} s, {again:.2f} s")]


def groups(asked: Asked) -> list[dict[str, object]]:
    """Queries are scored against many groups of one store, each with a counterfactual that was unlearned."""
    count, listing = asked.size.many, asked.runs / "load" / "groups.csv"
    grouped = ("--data.init_args.groups", groupings.hashed(listing, count))
    bench = streaming.tiny(asked, "load")
    beside = bench.beside(asked.runs / "load_groups", *grouped)
    quiet = (
        "--trainer.callbacks",
        "[]",
        "--trainer.logger",
        "false",
    )  # a W&B run each takes longer than a step
    unlearned = ("unlearn", "-c", "unlearn/retrack.yaml", "--steps", "1", *quiet)
    made, _ = _seconds(lambda: beside.stage(*unlearned))
    folder, scoring = beside.run.root / "random", ("--scoring.strata", "2", "--scoring.draws", "1")
    streaming.draw(folder, 4)
    of = ("--operator", "retrack", "--queries", str(folder))
    scored, _ = _seconds(lambda: beside.stage("attribute", *of, *scoring))
    (path,) = beside.run.scores.glob("*.parquet")
    found = len(ScoreTable.load(path).groups)
    if found != count:
        raise SystemExit(f"{path} has {found} of {count} groups")
    return [
        _row("groups in one store", count, "unlearned, a step each, without logs", f"{made:.0f} s"),
        _row("groups in one store", count, "4 queries scored", f"{scored:.0f} s"),
    ]


def page(asked: Asked) -> list[dict[str, object]]:
    """A page with many rows is written, and opened in a browser."""
    count, generator = asked.size.rows, torch.Generator().manual_seed(0)
    scores = torch.randn(count, 10, generator=generator, dtype=torch.float64)
    names = tuple(f"query-{number:06d}" for number in range(count))
    labels = [f"group {number}" for number in range(10)]
    scoring = ScoringRecord(0, {"kind": "stratified"}, "within strata", "fp32")
    table = ScoreTable.from_matrix(
        scores,
        scores.abs() / 3,
        query_ids=names,
        groups=labels,
        n_draws=2,
        method="retrack",
        weighting="elbo",
        seed=0,
        record=ScoreRecord(Likelihood(counterfactuals={}, sized=True), scoring=scoring),
    )
    pictures = torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1
    examples = {label: pictures[:4] for label in labels}
    of = PageTable(name="retrack-0", table=table, findings=Findings())
    shown = Page(title="load", queries=Queries(names, pictures), tables=[of], examples=examples)
    written, path = _seconds(lambda: write_page(asked.runs / "load" / "page", shown))
    done = subprocess.run([sys.executable, "-c", BROWSER, path.resolve()], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    if found["problems"]:
        raise SystemExit(str(found["problems"]))
    return [
        _row("rows of a page", count, "written", f"{written:.1f} s, {path.stat().st_size / 2**20:.1f} MiB"),
        _row(
            "rows of a page", count, "opened in Chromium, its first cards shown", f"{found['seconds']:.1f} s"
        ),
    ]


def queries(asked: Asked) -> list[dict[str, object]]:
    """Many queries go through one ``guda attribute``, whose memory stays flat."""
    count, bench = asked.size.streamed[-1], _bench(asked)
    folder, peak = bench.run.root / "random" / str(count), bench.run.root / "peak.json"
    streaming.draw(folder, count)
    shutil.rmtree(bench.run.scores, ignore_errors=True)
    looks, seconds = _watched(streaming.command(bench, folder, peak), bench.run.scores)
    table = bench.run.table("retrack", 0, str(count))
    scored = sum(len(part.queries) for part in ScoreTable.load_parts(table))
    if scored != count:
        raise SystemExit(f"{table} has {scored} of {count} queries")
    slope, error = slope_of(looks[looks[:, 0] > WARM_UP * count]) if len(looks) > 9 else (0.0, 0.0)
    most = json.loads(peak.read_text("utf-8"))["kib"] / 1024
    return [
        _row("queries of one command", count, "peak memory", f"{most:.0f} MiB"),
        _row(
            *("queries of one command", count, "growth of memory per 1,000 queries"),
            f"{slope * 1000:.3f} ± {error * 1000:.3f} MiB",
        ),
        _row("queries of one command", count, "scored", f"{seconds:.0f} s"),
    ]


def _watched(command: list[str], scores: Path) -> tuple[NDArray[np.float64], float]:
    """Run a command: queries scored and MiB of memory at every look, and its seconds."""
    start, looks = time.perf_counter(), list[tuple[float, float]]()
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None:
        time.sleep(LOOK)
        status = Path(f"/proc/{process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
        done = max((int(one.stem) for one in scores.glob("*.parts/*.parquet")), default=0)
        if found and done:
            looks.append((done, int(found[1]) / 1024))
    if process.returncode:
        raise SystemExit(process.returncode)
    return np.array(looks), time.perf_counter() - start


def slope_of(looks: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of the second column over the first by least squares, and its standard error."""
    counted = looks[:, 0] - looks[:, 0].mean()
    spread = float(counted @ counted)
    slope = float(counted @ looks[:, 1]) / spread
    rest = looks[:, 1] - looks[:, 1].mean() - slope * counted
    return slope, float(np.sqrt(rest @ rest / (len(looks) - 2) / spread))


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a core, hardly changed by other work, and what was made."""
    start = clock()
    made = work()
    return clock() - start, made
