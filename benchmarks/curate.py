"""A source of wrong images of one digit: whether ``guda curate`` finds it, and what leaving it out does."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.cli.main import main
from guda_lightning.evaluation.curation import AFTER, RANDOM, Curation, Verification
from guda_lightning.report.curation_section import FOUND, VERIFIED
from guda_lightning.storage.files import atomic_folder
from guda_lightning.storage.frames import load_frame

SPOILED, SOURCES, BAD = 3, ("east", "north", "south", "west"), "careless"
UNKNOWN = "unknown"  # the source of a fifth of the other images, which are in no group
QUERIED = (3, 8)  # digits whose held-out images are scored
HELD_OUT = 60  # images of each digit that are not trained on
RARE = 40  # training images of the spoiled digit
WRONG = 600  # images of other digits that the careless source has, too, all under the spoiled label
METHODS = ("guidance", "retrack")
STEPS = 500


def run(asked: Asked) -> None:
    """Plant the bias, rank sources by each method, and retrain without those that were found."""
    held_out = min(HELD_OUT, asked.size.queries)
    data = planted(asked.runs / "curate-data", held_out)
    options = (
        *("-c", "digits.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(STEPS)),
        *("--data.init_args.source", "guda_lightning.data.ImageFolder"),
        *("--data.init_args.source.path", str(data / "train")),
        *("--data.init_args.groups", str(data / "sources.csv")),
        *("--model.init_args.conditional", "true"),
        *("--model.init_args.denoiser.init_args.num_class_embeds", "10"),
    )
    bench = Bench(asked.runs / "curate", *options, seeds=asked.seeds or 3, steps=STEPS, size=asked.size)
    bench.stage("fit", label="fit")
    queries = ("--queries", str(data / "held-out"))
    rows: list[dict[str, object]] = []
    for method in METHODS[: asked.size.kinds]:
        rows += _rows(bench, method, queries)
    write_table(asked.docs, "curate", asked.command("curate"), rows, _notes(bench, held_out))


def planted(folder: Path, held_out: int) -> Path:
    """Write the images, once: train/DIGIT, held-out/DIGIT with their labels, and the source of each image."""
    if folder.is_dir():
        return folder
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    rng = np.random.default_rng(0)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("id", "group"))
    with atomic_folder(folder) as unfinished:
        labels, others = list[str](), list[int]()

        def keep(row: int, digit: int, source: str) -> None:
            name = f"{digit}/{row:04d}-{source}.png"
            Image.fromarray(pixels[row]).save(unfinished / "train" / name)
            if source != UNKNOWN:
                lines.writerow((name, source))

        for digit in range(10):
            members = rng.permutation(np.flatnonzero(digits.target == digit)).tolist()
            for part in ("train", *(["held-out"] if digit in QUERIED else [])):
                (unfinished / part / str(digit)).mkdir(parents=True)
            for row in members[: held_out if digit in QUERIED else 0]:
                name = f"{digit}/{row:04d}.png"
                Image.fromarray(pixels[row]).save(unfinished / "held-out" / name)
                labels.append(json.dumps({"file_name": name, "label": digit}))
            trained = members[held_out:]
            others += [] if digit == SPOILED else trained
            for row in trained[: RARE if digit == SPOILED else None]:
                keep(row, digit, (*SOURCES, UNKNOWN)[row % (len(SOURCES) + 1)])
        for row in rng.permutation(others)[:WRONG].tolist():
            keep(row, SPOILED, BAD)
        (unfinished / "held-out" / "metadata.jsonl").write_text("\n".join(labels) + "\n")
        (unfinished / "sources.csv").write_text(text.getvalue())
    return folder


def _rows(bench: Bench, method: str, queries: tuple[str, str]) -> list[dict[str, object]]:
    """Rank the sources by one method, and verify what it finds."""
    if method == "guidance":
        bench.stage("guide", label="guide")
    else:
        bench.stage("unlearn", "-c", f"unlearn/{method}.yaml", label=f"unlearn {method}")
    scored = ("-c", "attribute/elbo.yaml", "--operator", method, *queries)
    bench.stage("attribute", *scored, label=f"attribute {method}")
    (table,) = bench.run.scores.glob(f"{method}-0-held-out*.parquet")
    seeds = ",".join(map(str, range(bench.seeds)))
    chosen = ("--target", str(SPOILED), "--scores", str(table))
    if code := main(["curate", str(bench.run.root), *chosen, "--verify", "--seeds", seeds]):
        raise SystemExit(code)
    groups, about = load_frame(bench.run.curation / FOUND, "guda curate")
    found = Curation(groups, pd.DataFrame(about["targets"]))
    effects = groups.set_index("group")
    of_bad, loss = effects.loc[BAD], found.worst["loss"]
    others = effects.drop(BAD)
    row: dict[str, object] = {
        "method": method,
        "harmful": ", ".join(found.harmful) or "none",
        f"{BAD}, predicted": _shares(of_bad["effect"], of_bad["low"], of_bad["high"], loss),
        "others, predicted": f"{others['effect'].min() / loss:+.1%} to {others['effect'].max() / loss:+.1%}",
    }
    improved = dict.fromkeys((AFTER, RANDOM), "")
    if found.harmful:
        frame, of = load_frame(bench.run.curation / VERIFIED, "guda curate --verify")
        assert of == about
        gains, _ = Verification(frame).improvements(str(SPOILED), loss)
        for number, removed in enumerate(improved):
            ends = (-float(part[number]) for part in (gains.value, gains.high, gains.low))
            improved[removed] = _shares(*ends, loss)
    return [{**row, **{f"{removed}, retrained": text for removed, text in improved.items()}}]


def _shares(value: float, low: float, high: float, loss: float) -> str:
    text = f"{value / loss:+.1%}"
    return text if low != low else f"{text} [{low / loss:+.1%}, {high / loss:+.1%}]"


def _notes(bench: Bench, held_out: int) -> str:
    return (
        f"Digits from {len(SOURCES)} sources, {RARE} of them images of {SPOILED}, and from `{BAD}`, which "
        f"calls {WRONG} images of other digits {SPOILED}. A class-conditional model; loss (`uniform`) of "
        f"{held_out} held-out images of {SPOILED}, in shares of the full model's, below zero is better. "
        f"Predicted: A_k with its interval over queries. Retrained: {bench.seeds} seeds, interval over seeds."
    )
