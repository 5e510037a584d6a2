"""``make torture``: the long form of the harness; ``make torture ARGS="kills --count 50"`` for one part."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from torture import programs

programs.import_everything()

from torture.damage import Damage, damage, damages  # noqa: E402
from torture.kills import Kill, kills, moments  # noqa: E402
from torture.workshop import Workshop  # noqa: E402
from warm import Server  # noqa: E402


def _main() -> int:
    parser = argparse.ArgumentParser("make torture", description=__doc__)
    parser.add_argument("part", choices=("kills", "damage"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", nargs="*", default=(), help="repeat these")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    server = Server()
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(server, options.folder or Path(folder))
        if options.part == "kills":
            given = [Kill.parse(one) for one in options.at] or moments(shop, options.count, options.seed)
            done, failures = kills(shop, given)
            print(done)
        else:
            flips = [Damage.parse(one) for one in options.at] or damages(shop, options.count, options.seed)
            done, outcomes, failures = damage(shop, flips)
            print(done, outcomes)
        print(*failures, sep="\n\n")
        server.close()
    return min(len(failures), 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.update(WANDB_MODE="offline", HF_HUB_OFFLINE="1")
    sys.exit(_main())
