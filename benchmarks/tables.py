"""Tables in the pages of docs, each between markers that name its benchmark."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

PAGES = ("benchmarks.md", "sizing.md")  # that hold tables


def write_table(
    docs: Path,
    name: str,
    command: str,
    rows: Sequence[Mapping[str, object]],
    notes: str = "",
    page: str = PAGES[0],
) -> None:
    """Replace the table of one benchmark in a page of docs.

    Args:
        docs: The folder of the page.
        name: Of the markers that the table stands between.
        command: With which it was measured.
        rows: Cells by column, the same columns in each.
        notes: What the reader of the table should know.
        page: Name of the page.
    """
    path = docs / page
    header = list(rows[0])
    lines = [
        f"`{command}` · {machine()} · {datetime.date.today().isoformat()}",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(str(row[column]) for column in header) + " |" for row in rows),
    ]
    if notes:
        lines += ["", notes]
    text = path.read_text("utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path} has no markers <!-- {name} --> and <!-- /{name} -->")
    body = "\n".join(lines)
    path.write_text(pattern.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text), "utf-8")
    print(body)


def with_interval(found: pd.DataFrame, metric: str) -> str:
    """Write a metric of one method with its interval, from rows of ``Agreement.metrics``."""
    value, low, high = found.set_index("metric").loc[metric, ["value", "low", "high"]]
    return f"{value:.3f} [{low:.2f}, {high:.2f}]"


def machine() -> str:
    """The processor, what it may use, and torch."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*: (.+)", info.read_text())
        cpu = found[1] if found else cpu
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores of {cpu}"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
