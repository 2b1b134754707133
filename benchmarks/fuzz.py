"""Files of strangers, damaged at random: read or refused, in bounded time and memory?

    OMP_NUM_THREADS=1 python benchmarks/fuzz.py --cases 2000

Each kind of file that the package reads (``tests/rubbish/fuzz_kinds.py``) is damaged ``--cases``
times (``mutations.py``) and read in a process of its own, which may grow by 512 MiB and take 10
seconds a case. A case holds if the file is read, or refused with a documented error. Anything else
is a failure, and named by its kind and number, which show it again: ``--only KIND --case NUMBER``.
Writes ``benchmarks/results/fuzz.json``; the last line printed counts the cases.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import report

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "rubbish"), str(TESTS)]


def main() -> None:
    from corpus import ROOM, SECONDS
    from fuzz_kinds import KINDS
    from fuzzing import fuzz

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="of each kind")
    parser.add_argument("--only", choices=KINDS, help="one kind alone")
    parser.add_argument("--case", type=int, help="one case of it alone, its error shown")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "fuzz.json")
    options = parser.parse_args()
    if options.case is not None:
        show(options.only, options.case, options.seed)
        return
    kinds = {}
    for name in [options.only] if options.only else KINDS:
        kinds[name] = fuzz(name, options.cases, options.seed)
        print(line(name, kinds[name]), flush=True)
    total = {key: sum(kind[key] for kind in kinds.values()) for key in ("tried", "refused")}
    total["failures"] = sum(len(kind["failures"]) for kind in kinds.values())
    for key in ("most_seconds", "most_mib"):
        total[key] = max(kind[key] for kind in kinds.values())
    settings = {"cases": options.cases, "seed": options.seed}
    settings |= {"allowed_seconds": SECONDS, "allowed_mib": ROOM // 2**20}
    result = {**total, "kinds": kinds, "settings": settings, **report.environment()}
    if not options.only:
        report.write(options.out, result)
    print(line("all", {**total, "failures": [None] * total["failures"]}))
    sys.exit(bool(total["failures"]))


def show(kind: str, case: int, seed: int) -> None:
    """Read one case here, with the error that it raises."""
    from fuzz_kinds import KINDS, write
    from fuzzing import damaged

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "given"
        write(damaged(kind, KINDS[kind].files(), case, seed), place)
        print(KINDS[kind].read(place))


def line(name: str, found: dict[str, Any]) -> str:
    """One kind in one line."""
    reasons = Counter(f["why"].split(":")[0] for f in found["failures"] if f)
    return (
        f"{name}: {found['tried']:,} tried, {found['refused']:,} refused, "
        f"{len(found['failures'])} failures {dict(reasons) or ''}; at most "
        f"{found['most_seconds']:.2f} s and {found['most_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
