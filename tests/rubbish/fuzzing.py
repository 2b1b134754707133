"""Damages files at random, many in a process of their own, and counts how they are met.

A case is a kind, a number and a seed, which make it again. It holds if the file is read, or refused
with a documented error, within the time and memory of `corpus.limited`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import tempfile
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

from corpus import DOCUMENTED, causes, limited
from fuzz_kinds import KINDS, write
from mutations import mutated


def fuzz(kind: str, cases: int, seed: int = 0) -> dict[str, Any]:
    """Counts, failures, and the largest time and memory of some cases of a kind."""
    result: dict[str, Any] = {"tried": 0, "refused": 0, "read": 0, "failures": []}
    result |= {"most_seconds": 0.0, "most_mib": 0.0}
    context = multiprocessing.get_context("fork")
    while result["tried"] < cases:
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(kind, result["tried"], cases, seed, send))
        worker.start()
        send.close()
        _collect(receive, result)
        worker.join()
        if result["tried"] < cases:  # it died: the case that it was at is why
            why = f"the process died ({worker.exitcode})"
            result["failures"].append({"case": result["tried"], "why": why})
            result["tried"] += 1
    return result


def _collect(receive: Any, result: dict[str, Any]) -> None:
    while True:
        try:
            case, outcome, seconds, mib = receive.recv()
        except EOFError:
            return
        result["tried"] += 1
        result["most_seconds"] = round(max(result["most_seconds"], seconds), 3)
        result["most_mib"] = round(max(result["most_mib"], mib), 1)
        if outcome in ("read", "refused"):
            result[outcome] += 1
        else:
            result["failures"].append({"case": case, "why": outcome})


def _work(kind: str, first: int, cases: int, seed: int, send: Any) -> None:
    """Runs in a process of its own: cases from ``first`` on, each reported when it is done."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # HDF5 and Rust talk while they are hurt
    files = KINDS[kind].files()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "given"
        write(files, place)
        KINDS[kind].read(place)  # the valid one; and nothing is imported later
        before = _peak()
        for case in range(first, cases):
            write(damaged(kind, files, case, seed), place)
            begun = perf_counter()
            outcome = _outcome(kind, place)
            send.send((case, outcome, perf_counter() - begun, _peak() - before))
    send.close()


def damaged(kind: str, files: dict[str, bytes], case: int, seed: int) -> dict[str, bytes]:
    rng = random.Random(f"{kind} {case} {seed}")
    name = rng.choice(KINDS[kind].damaged)
    return files | {name: mutated(files[name], rng)}


def _outcome(kind: str, place: Path) -> str:
    try:
        with limited():
            KINDS[kind].read(place)
    except DOCUMENTED as error:
        hidden = [cause for cause in causes(error) if isinstance(cause, MemoryError | TimeoutError)]
        return f"{type(hidden[0]).__name__} behind it" if hidden else "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error!s:.200}"
    return "read"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
