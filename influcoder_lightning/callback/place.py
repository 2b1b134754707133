"""Where in the data a checkpoint stands, and Lightning's counters put right to go on from there.

A run is always in one of three places, and goes on from each as if it had not stopped:

- *between epochs*: ``epoch`` epochs are done, no batch of the next one. The next epoch begins, with
  its hooks; a loader that knows its place moves on to its next order.
- *in an epoch*: ``batch`` batches of the next epoch are done. It goes on with the one behind them.
- *over*: between epochs, and `max_epochs` or `max_steps` is reached. Nothing is trained any more.

Lightning's checkpoint knows the place, but in four counters each of epochs and batches, which stand
differently after a batch, a validation, an epoch and an exception. What Lightning 2.6 makes of them
goes wrong between epochs: it does not count the epoch that begins as begun (so that a second resume
trains one epoch too many), does not load the loader's state (or takes an epoch that was read to its
end for a whole one), and takes an epoch that `max_steps` cut short for a whole one. So the place is
read off the counters here, and the counters are written back in one of the two ways that Lightning
goes on from rightly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from influcoder_lightning.errors import StoreError

_EPOCHS, _BATCHES, _STEPS = (
    "epoch_progress",
    "epoch_loop.batch_progress",
    "epoch_loop.automatic_optimization.optim_progress",
)


@dataclass(frozen=True)
class Place:
    """Where a run stands.

    Attributes:
        epoch: epochs that are done.
        batch: batches of the next one that are done; 0 between epochs.
        under_way: batches that the loader gave out and nobody was trained on: 1 where the
            checkpoint was saved by an exception inside a batch, else 0.
        processed: batches of the whole run that are done.
        in_hooks: the last batch's ``on_train_batch_end`` was not over.
        cut: the epoch was ended by `max_steps` or an early stop, before its last batch.
    """

    epoch: int
    batch: int
    under_way: int
    processed: int
    in_hooks: bool
    cut: bool


def place_of(loop: dict[str, Any]) -> Place | None:
    """The place that the state of Lightning's fit loop stands for; None where it is unlike 2.x's.

    Args:
        loop: ``checkpoint["loops"]["fit_loop"]``.
    """
    try:
        epochs, batches = loop[_EPOCHS]["current"], loop[_BATCHES]["current"]
        total, last = loop[_BATCHES]["total"], bool(loop[_BATCHES]["is_last_batch"])
        done, begun, closed = (int(epochs[k]) for k in ("processed", "started", "completed"))
        given, trained = int(batches["ready"]), int(batches["processed"])
        in_hooks = int(total["completed"]) < int(total["processed"])
        processed = int(total["processed"])
        int(loop[_STEPS]["optimizer"]["step"]["total"]["completed"])
    except (KeyError, TypeError, ValueError):
        return None
    under_way = max(0, given - trained)
    whole = last and not under_way
    cut = False
    if not in_hooks and (closed < done or begun <= done):  # the epoch of these batches was ended
        cut = not whole and trained > 0
        epoch, batch = (done - 1, trained) if cut else (done, 0)
        under_way = 0
    else:
        epoch, batch = (done + 1, 0) if whole else (done, trained)
    return Place(epoch, batch, under_way, processed, in_hooks, cut)


def go_on(loop: dict[str, Any], place: Place) -> None:
    """Write the counters so that Lightning goes on from a place; the loaders' states as well.

    Raises:
        StoreError: a loader is not where the run is, and cannot be brought there.
    """
    between = place.batch == 0
    _write(loop[_EPOCHS], ready=place.epoch + 1, done=place.epoch, started=not between)
    if between or place.cut or place.under_way:
        _write_batches(loop, place)
    states = loop.get("state_dict", {}).get("combined_loader", [])
    if len(states) == 1:  # of several, the shorter ones begin again within an epoch
        _bring_loader(states[0], place)


def warn_of_loader(place: Place, loader: Any) -> None:
    """Say where a run with this loader does not become one that never stopped."""
    name = type(loader).__name__
    if place.batch and not hasattr(loader, "load_state_dict"):
        rank_zero_warn(
            f"influcoder: the training goes on behind batch {place.batch} of its epoch "
            f"{place.epoch}, but {name} cannot: it begins at its first batch again. The rows are "
            "right, each is what was trained on; but in this epoch some samples may come twice "
            f"and others not at all. {_WAY_OUT}"
        )
    elif place.epoch and hasattr(getattr(loader, "sampler", None), "generator"):
        rank_zero_warn(
            f"influcoder: {name} shuffles by a stream of random numbers that a checkpoint between "
            "epochs does not bring back. Every sample comes once in each epoch, but in another "
            f"order than in a run that never stopped. {_WAY_OUT}"
        )


_WAY_OUT = "influcoder_lightning.data.EpochLoader goes on where it was."


def _write(progress: dict[str, Any], *, ready: int, done: int, started: bool) -> None:
    """An epoch that is about to begin, or has begun; those before it are done."""
    for counters in (progress["total"], progress["current"]):
        counters.update(ready=ready, started=ready if started else done)
        counters.update(processed=done, completed=done)


def _write_batches(loop: dict[str, Any], place: Place) -> None:
    """As a checkpoint after the last batch that is done: Lightning counts it as completed itself.

    In an exception inside a batch nothing is owed: the batch before it was completed.
    """
    owed = 0 if place.under_way and place.batch else 1
    for counters, n in (("total", place.processed), ("current", place.batch)):
        loop[_BATCHES][counters].update(ready=n, started=n, processed=n, completed=n - owed)
    loop[_BATCHES]["is_last_batch"] = False
    steps = loop[_STEPS]["optimizer"]["step"]["total"]["completed"]
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - owed
    if not place.batch:
        for part in ("step", "zero_grad"):
            counters = loop[_STEPS]["optimizer"][part]["current"]
            counters.update(dict.fromkeys(counters, 0))


def _bring_loader(state: Any, place: Place) -> None:
    """Let the state of a loader go on behind the batches that are done.

    Known are `EpochLoader`, which is brought there, and torchdata's ``StatefulDataLoader``, which
    can be told that an epoch is over. Of others nothing is known but what they say themselves.
    """
    if not isinstance(state, dict):
        return
    if state.keys() == {"epoch", "batch"}:
        state["batch"] -= place.under_way
        return
    given = _given_by_torchdata(state)
    if given is None:
        return
    if place.under_way or (place.batch and given != place.batch):
        raise StoreError(
            f"the data loader has given out {given} batches of this epoch, but "
            f"{place.batch} were trained: the checkpoint was saved inside a batch or after the "
            "loader had been closed. Resume from a checkpoint that was saved at the end of a "
            "batch, or use influcoder_lightning.data.EpochLoader, which goes on from both."
        )
    if not place.batch and given:
        state["_iterator_finished"] = True


def _given_by_torchdata(state: dict[str, Any]) -> int | None:
    """Batches that a ``StatefulDataLoader`` has given out; None for other loaders."""
    if "_iterator_finished" not in state:
        return None
    if "_num_yielded" in state:
        return int(state["_num_yielded"])
    snapshot = state.get("_snapshot", {}).get("_snapshot_step")
    since = state.get("_steps_since_snapshot")
    return None if snapshot is None or since is None else int(snapshot) + int(since)
