"""Whole training runs whose disk fails, or whose process ends, at sampled file operations.

    OMP_NUM_THREADS=1 python benchmarks/fault_injection.py --per-kind 40

A tiny Llama is fine-tuned by a Trainer with the callback, windows, co-training and checkpoints. In
each case one file operation below the store's folder is disturbed (see `tests/faults/disk.py`): the
process is killed, interrupted, meets a full disk or an error of it, or the power is cut, so that
only what was synced is left. Then the store must open or say why, with every row that was reported
as sealed, each once and as in a run that was never disturbed; and training goes on from the newest
checkpoint to the same store. Writes ``benchmarks/results/fault_injection.json``: for each kind, how
many operations were disturbed and how many runs survived.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import kill_test
import report

from influcoder_lightning import InfluenceStore
from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.folder import rank_folder, run_file
from influcoder_lightning.store.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from disk import KINDS, Disk, Fault, Killed

N_SAMPLES, SECONDS = 48, 1e9  # segments end by their rows, so that operations are the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-kind", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "fault_injection.json")
    options = parser.parse_args()
    kill_test.quiet()
    kill_test.N_SAMPLES = N_SAMPLES
    rng = random.Random(options.seed)
    counts = {kind: {"injected": 0, "survived": 0} for kind in KINDS}
    failures = []
    with tempfile.TemporaryDirectory(prefix="fault_injection_") as work:
        disk, _ = life(Path(work, "whole"), Fault())
        whole = InfluenceStore(Path(work, "whole", "store"))
        for kind in KINDS:
            chosen = rng.sample(range(1, disk.count), min(options.per_kind, disk.count - 1))
            for at in sorted(chosen):
                folder = Path(work, "case")
                counts[kind]["injected"] += 1
                try:
                    one_case(folder, Fault(kind, at), whole)
                    counts[kind]["survived"] += 1
                except Exception as error:
                    failures.append(f"{kind} at {at}: {type(error).__name__}: {error!s:.300}")
                    print(failures[-1], flush=True)
                shutil.rmtree(folder)
            print(f"{kind}: {counts[kind]}", flush=True)
    total = {name: sum(c[name] for c in counts.values()) for name in ("injected", "survived")}
    report.write(
        options.out,
        {
            "operations_of_a_run": disk.count,
            "kinds": counts,
            **total,
            "failures": failures,
            "seed": options.seed,
            "environment": report.environment(),
        },
    )
    print(f"fault_injection: {total['survived']} of {total['injected']} survived")
    sys.exit(total["survived"] != total["injected"])


def life(folder: Path, fault: Fault) -> tuple[Disk, int]:
    """A training run on a failing disk; returns the disk and the rows reported as sealed."""
    store = folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    disk = Disk(store, fault)
    with disk.mounted():
        try:
            kill_test.run(folder, SECONDS)
        except (Killed, KeyboardInterrupt, SystemExit, StoreError, OSError):
            disk.repair()
        n_sealed = sealed(store)
        if fault.kind.startswith("power") and disk.happened:
            disk.power_cut(names_kept="names" in fault.kind)
    return disk, n_sealed


def sealed(store: Path) -> int:
    """Rows that are reported as written when the process ends."""
    place = rank_folder(store, 0)
    if (store / "influence.h5").exists() or not place.exists():
        return 0  # the store itself is looked at
    return Manifest(place).n_rows


def one_case(folder: Path, fault: Fault, whole: InfluenceStore) -> None:
    disk, n_sealed = life(folder, fault)
    if not disk.happened:
        raise AssertionError("the run had fewer operations than the undisturbed one")
    store = folder / "store"
    if run_file(store).exists() or (store / "influence.h5").exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = InfluenceStore(store)
        n = len(found)
        if n < (0 if fault.kind.startswith("power") else n_sealed):
            raise AssertionError(f"{n_sealed} rows were sealed, {n} came back")
        kill_test.same(found.sample_ids, whole.sample_ids[:n], "ids")
        kill_test.same(found.sketches(), whole.sketches()[:n], "sketches")
        if found.attributes["complete"]:
            return kill_test.check_equal(found, whole)
    elif n_sealed:
        raise AssertionError(f"{n_sealed} rows were sealed, and there is no store")
    kill_test.run(folder, SECONDS)
    return kill_test.check_equal(InfluenceStore(store), whole)


if __name__ == "__main__":
    main()
