"""Going on from a checkpoint: the state beside it, and a store cut back to its moment.

Everything captured after the checkpoint is dropped, since training will come by it again. Where the
run was still open (or crashed) the cut is between two segments, because a checkpoint seals the open
one. Where it was complete, its segments are merged: ``influence.h5`` becomes ``segments/base.h5``,
of which the first rows of each process count.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from influcoder_lightning.errors import StoreError
from influcoder_lightning.processes import Processes
from influcoder_lightning.store import schema
from influcoder_lightning.store.description import Description, Pointer
from influcoder_lightning.store.folder import (
    BASE,
    SEGMENTS,
    STATE,
    RunFolder,
    read_description,
    run_file,
)
from influcoder_lightning.store.merge import manifests
from influcoder_lightning.store.state import read_state, write_state
from influcoder_lightning.store.store_file import read_attributes
from influcoder_lightning.valuation.recorder import Recorder

_MAY_CHANGE = {
    "allow_compiled",
    "accumulate_grad_batches",
    "keep_states",
    "overwrite",
    "precision",
    "sanity_samples",
    "segment_rows",
    "segment_seconds",
    "tokenizer",
}
_FACTS = "depends_on"
_ADDED = {  # options that runs of earlier releases do not name
    "optimizer_features": False,
    "code_dtype": "float16",
    "labels_shifted": False,
    "read_batch": None,
    "batch_loss": None,
}


def save(
    folder: Path,
    recorder: Recorder,
    processes: Processes,
    description: Description,
    extra: Mapping[str, object],
    keep: int,
) -> Pointer:
    """Write the state of every process; returns what the checkpoint holds of it.

    Args:
        folder: of the store.
        recorder: of this process.
        processes: of the run; all of them call this.
        description: of the run.
        extra: further JSON values to get back.
        keep: states that stay, the newest ones.
    """
    names = sorted(path.name for path in (folder / STATE).glob("[0-9]*"))
    name = processes.broadcast(f"{int(names[-1]) + 1 if names else 0:08d}")
    recorder.hand_over()
    values, tensors = recorder.state()
    seen, kept_out = recorder.segments.totals()
    before = description["base_rows"]
    values = {
        "recorder": values,
        "generation": description["generation"],
        "n_segments": len(recorder.segments.manifest.segments),
        "n_rows": recorder.segments.n_rows + (before[processes.rank] if before else 0),
        "counts": {"seen": seen, "kept_out": kept_out},
        "base_counts": description.get("base_counts") if processes.first else None,
        "extra": dict(extra),
    }
    weights = None
    if recorder.cotraining is not None:
        values["cotraining"], more, weights = recorder.cotraining.state()
        tensors = tensors | {f"cotraining.{key}": value for key, value in more.items()}
    digest = write_state(_place(folder, name, processes.rank), values, tensors, weights)
    digests = processes.gather(digest)
    if processes.first:
        for old in names[: max(0, len(names) + 1 - keep)]:
            shutil.rmtree(folder / STATE / old)
    return {"state": name, "sha256": digests}


def rewind(run: RunFolder, pointer: Pointer, current: Description) -> Description:
    """Cut the store back to a checkpoint's moment; returns the description to go on with.

    The first process calls it, for all.

    Args:
        run: the locked folder.
        pointer: what `save` returned.
        current: description of the run that goes on.

    Raises:
        StoreError: another configuration, or what the checkpoint needs is gone or damaged.
    """
    folder = run.folder
    digests: list[str] = pointer["sha256"]
    found = read_description(folder)
    _refuse_differences(found, current)
    states = [
        read_state(_place(folder, pointer["state"], rank), digest)[0]
        for rank, digest in enumerate(digests)
    ]
    parts = manifests(folder, found)
    n_segments = [state["n_segments"] for state in states]
    rows = [state["n_rows"] for state in states]
    same = states[0]["generation"] == found["generation"]
    # A run that ended has no base any more, and a state of it may need no segment.
    based = found["base_rows"] is None or (folder / SEGMENTS / BASE).exists()
    if same and based and all(len(p.segments) >= n for p, n in zip(parts, n_segments, strict=True)):
        for part, n in zip(parts, n_segments, strict=True):
            for segment in part.segments[:n]:
                part.verified(segment)
        description = found
        (folder / schema.FILE_NAME).unlink(missing_ok=True)
        for part, n in zip(parts, n_segments, strict=True):
            part.keep(part.segments[:n])
    else:
        description = _adopt(folder, found, states, rows)
        run.describe(description)
        (folder / schema.FILE_NAME).unlink(missing_ok=True)
        for part in parts:
            part.keep([])
    for later in (folder / STATE).glob("[0-9]*"):
        if later.name > pointer["state"]:
            shutil.rmtree(later)
    shutil.rmtree(folder / "adapters" / "final", ignore_errors=True)
    return description


def refuse_pointer(folder: Path, pointer: Mapping[str, object]) -> None:
    """Raise ``StoreError`` unless ``pointer`` is what `save` returned for a run in ``folder``.

    A checkpoint may come from anywhere: nothing is touched before this has been asked.
    """
    state, digests = pointer.get("state"), pointer.get("sha256")
    sound = isinstance(state, str) and state.isascii() and state.isdigit()
    sound = sound and isinstance(digests, list) and all(isinstance(d, str) for d in digests)
    if not sound:
        raise StoreError("the checkpoint does not hold what a valuation needs to go on.")
    if not os.path.exists(run_file(folder)):
        raise StoreError(
            f"{folder} holds no run that could go on from this checkpoint. Pass the `dirpath` of "
            "the interrupted run, or train without `ckpt_path`."
        )


def unfinished(folder: Path) -> bool:
    """Whether a run in ``folder`` began, and was not closed."""
    store = folder / schema.FILE_NAME
    if not os.path.exists(run_file(folder)):
        return False
    return not (store.exists() and read_attributes(store)["complete"])


def is_complete(folder: Path) -> bool:
    """Whether a run in ``folder`` came to its end."""
    store = folder / schema.FILE_NAME
    return store.exists() and bool(read_attributes(store)["complete"]) and not unfinished(folder)


def refuse_changed_store(folder: Path, facts: Mapping[str, object]) -> None:
    """`refuse_changes` of a run that came to its end, which its store tells of."""
    config = read_attributes(folder / schema.FILE_NAME)["config"]
    _refuse(_differing_facts(config.get(_FACTS, {}), facts))


def restore(
    folder: Path, recorder: Recorder, processes: Processes, pointer: Pointer
) -> dict[str, Any]:
    """Bring a fresh recorder to the checkpoint's moment; returns the extra values."""
    place = _place(folder, pointer["state"], processes.rank)
    values, tensors, weights = read_state(place, pointer["sha256"][processes.rank])
    recorder.restore(values["recorder"], tensors)
    if recorder.cotraining is not None:
        own = {
            key.removeprefix("cotraining."): value
            for key, value in tensors.items()
            if key.startswith("cotraining.")
        }
        recorder.cotraining.restore(values["cotraining"], own, weights)
    return dict(values["extra"])


def tidy(run: RunFolder) -> None:
    """After a complete merge: only what a kept checkpoint may need stays beside the store."""
    folder = run.folder
    states = list((folder / STATE).glob("[0-9]*/rank_00000/values.json"))
    if not states:
        shutil.rmtree(folder / STATE, ignore_errors=True)
        run.dissolve()
        return
    # Before the first tower version a checkpoint's rows are sketches; later ones are in the store.
    waited = any(json.loads(s.read_text())["recorder"]["n_versions"] == 0 for s in states)
    for part in manifests(folder, read_description(folder)):
        part.keep([s for s in part.segments if s.waiting and waited])
    (folder / SEGMENTS / BASE).unlink(missing_ok=True)


def forget_states(folder: Path) -> None:
    """Remove what only checkpoints need from beside a complete store."""
    run = RunFolder(folder)
    shutil.rmtree(folder / STATE, ignore_errors=True)
    run.dissolve()


def _adopt(
    folder: Path, found: Description, states: Sequence[Mapping[str, Any]], rows: list[int]
) -> Description:
    """The description of a run whose first rows come from a merged store."""
    store, base = folder / schema.FILE_NAME, folder / SEGMENTS / BASE
    parts = found.get("base_parts")
    if store.exists():
        attributes = read_attributes(store)
        if attributes["complete"]:
            parts = attributes["parts"]
            base.unlink(missing_ok=True)
            try:
                os.link(store, base)
            except OSError:  # a file system without links
                shutil.copyfile(store, base)
    encoded = states[0]["recorder"]["n_versions"] > 0
    if not encoded or parts is None or any(n > m for n, m in zip(rows, parts, strict=True)):
        raise StoreError(
            f"{folder} no longer holds the rows that were captured before this checkpoint. Resume "
            "from a newer one, or start again in another folder."
        )
    seen, kept_out = 0, Counter[str]()
    for state in states:
        for counts in filter(None, (state["counts"], state["base_counts"])):
            seen += counts["seen"]
            kept_out.update(counts["kept_out"])
    return {
        **found,
        "generation": uuid4().hex,
        "base_rows": rows,
        "base_parts": parts,
        "base_windows": len(states[0]["recorder"]["windows"]),
        "base_queries": states[0]["recorder"]["n_queries"],
        "base_counts": {"seen": seen, "kept_out": dict(kept_out)},
    }


def refuse_changes(folder: Path, facts: Mapping[str, object]) -> None:
    """Refuse to go on with the run in ``folder`` where what its rows depend on has changed.

    For those who know before a checkpoint is loaded; `rewind` compares the same facts again.

    Args:
        folder: of a store; one without a run is for others to refuse.
        facts: as ``InfluenceCallback.depends_on`` gives them, or some of them.

    Raises:
        StoreError: they differ; all differences are listed.
    """
    if os.path.exists(run_file(folder)):
        config = read_description(folder)["store"]["attributes"]["config"]
        _refuse(_differing_facts(config.get(_FACTS, {}), facts))


def _refuse_differences(found: Description, current: Description) -> None:
    before, now = _comparable(found), _comparable(current)
    kept, facts = (run["store"]["attributes"]["config"].get(_FACTS, {}) for run in (found, current))
    names = before.keys() | now.keys()
    if "base_model" in kept.keys() & facts.keys():  # known by its weights, wherever it lies now
        names -= {"lora.base_model"}
    differences = [
        _difference(name, before.get(name), now.get(name))
        for name in sorted(names)
        if before.get(name) != now.get(name)
    ]
    _refuse(differences + _differing_facts(kept, facts))
    if unknown := sorted(facts.keys() - kept.keys()):
        rank_zero_warn(
            "influcoder: the run was begun by another release, which did not keep "
            f"{', '.join(unknown)}: whether they are still the same cannot be checked."
        )


def _differing_facts(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return [
        _difference(name, before[name], now[name])
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]


def _difference(name: str, before: object, now: object) -> str:
    if all(isinstance(value, str) and len(value) == 64 for value in (before, now)):
        return f"{name}: its content has changed"  # two hashes say nothing to people
    return f"{name}: {before!r:.200} -> {now!r:.200}"


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        raise StoreError(
            "the run cannot go on with other settings or data than it began with: "
            f"{'; '.join(differences[:10])}. Use the old ones, or start again in another folder."
        )


def _comparable(description: Description) -> dict[str, Any]:
    """Everything that rows of one store must share, flat."""
    store = description["store"]
    attributes = store["attributes"]
    values = {"processes": description["world_size"], **_ADDED, **attributes["config"]}
    values |= {f"lora.{name}": value for name, value in attributes["lora"].items()}
    if values.get("lora.base_model") in ("", "None"):  # what releases of transformers call no name
        values["lora.base_model"] = None
    values["projector_version"] = attributes["projector"]["version"]
    layers = [list(layer) for layer in store["layers"]]
    values |= {"layers": layers, "code_dim": store["code_dim"], "sketch_dim": store["sketch_dim"]}
    return {k: value for k, value in values.items() if k not in _MAY_CHANGE and k != _FACTS}


def _place(folder: Path, name: str, rank: int) -> Path:
    return folder / STATE / name / f"rank_{rank:05d}"
