"""``make benchmark``: all benchmarks, or those named: ``python -m benchmarks digits``."""

from __future__ import annotations

import sys

from benchmarks import digits, forget_target

BENCHMARKS = {"forget_target": forget_target.run, "digits": digits.run}

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            raise SystemExit(f"no benchmark {name!r}: choose from {', '.join(BENCHMARKS)}")
        BENCHMARKS[name]()
