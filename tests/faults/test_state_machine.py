"""Any sequence of rows, seals, checkpoints, kills, resumes, openings and added queries.

The model is a list of ids in memory, how many of them were reported as sealed, and the
checkpoints.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
from disk import Disk, Fault, Killed
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lives import DIM, description, new_recorder, opened, rows_of

from influcoder_lightning.errors import StoreError
from influcoder_lightning.processes import Processes
from influcoder_lightning.store.folder import RunFolder, read_description
from influcoder_lightning.store.segments import FeatureBlock
from influcoder_lightning.store.writer import StoreWriter
from influcoder_lightning.valuation.finish import finish
from influcoder_lightning.valuation.resume import restore, rewind, save, tidy

KEEP = 2


class Runs(RuleBasedStateMachine):
    """One folder, and the processes that come and go in it."""

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="runs-"))
        self.taken, self.sealed, self.checkpoints = [], 0, []
        self.complete, self.queries = False, [100, 101]
        self.run = RunFolder(self.folder)
        self.run.start(description(co_train=False))
        self.recorder = new_recorder(self.folder, co_train=False)
        self.recorder.open_window(0, 0, rows_of(self.queries))

    def alive(self):
        return self.run is not None

    @precondition(lambda self: self.alive())
    @rule(n=st.integers(1, 3))
    def rows(self, n):
        ids = list(range(len(self.taken), len(self.taken) + n))
        self.recorder.see(ids)
        self.recorder.add(rows_of(ids), 0, len(self.taken), 0.1)
        self.taken += ids
        self.recorder.end_step()
        self.sealed = self.recorder.segments.manifest.n_rows + self._before()

    @precondition(lambda self: self.alive())
    @rule()
    def seal(self):
        self.recorder.segments.seal()
        self.sealed = len(self.taken)

    @precondition(lambda self: self.alive())
    @rule(
        kind=st.sampled_from(["interrupt", "interrupt after", "full", "io error"]),
        at=st.integers(1, 13),
    )
    def trouble_while_sealing(self, kind, at):
        """The process lives on; its next seal has everything."""
        disk = Disk(self.folder, Fault(kind, at))
        with disk.mounted():
            try:
                self.recorder.segments.seal()
            except (KeyboardInterrupt, StoreError):
                return
        self.sealed = len(self.taken)

    @precondition(lambda self: self.alive())
    @rule()
    def checkpoint(self):
        described = read_description(self.folder)
        pointer = save(self.folder, self.recorder, Processes(), described, {}, KEEP)
        self.sealed = len(self.taken)
        self.checkpoints = [*self.checkpoints, (pointer, len(self.taken))][-KEEP:]

    @precondition(lambda self: self.alive())
    @rule(at=st.integers(1, 13))
    def kill(self, at):
        """At an operation of sealing, or after it."""
        with Disk(self.folder, Fault("kill after", at)).mounted():
            try:
                self.recorder.segments.seal()
                self.sealed = len(self.taken)
            except Killed:
                pass
        self._die()

    @precondition(lambda self: self.alive())
    @rule()
    def end(self):
        self.recorder.close(len(self.taken), None)
        finish(self.folder, read_description(self.folder), own=self.recorder.segments.manifest)
        tidy(self.run)
        self._die()
        self.sealed, self.complete = len(self.taken), True

    @precondition(lambda self: not self.alive() and self.checkpoints)
    @rule(newest=st.booleans())
    def resume(self, newest):
        pointer, n_taken = self.checkpoints[-1 if newest else 0]
        self.checkpoints = [c for c in self.checkpoints if c[0]["state"] <= pointer["state"]]
        self.run = RunFolder(self.folder)
        rewind(self.run, pointer, description(co_train=False))
        self.recorder = new_recorder(self.folder, co_train=False)
        restore(self.folder, self.recorder, Processes(), pointer)
        self.taken, self.sealed = self.taken[:n_taken], n_taken
        self.complete, self.queries = False, [100, 101]

    @precondition(lambda self: not self.alive())
    @rule()
    def open(self):
        store = opened(self.folder)
        assert self.sealed <= len(store) <= len(self.taken)
        assert store.sample_ids.tolist() == self.taken[: len(store)]
        expected = rows_of(self.taken[: len(store)] or [0]).sketch[: len(store)]
        np.testing.assert_array_equal(store.sketches(), expected)
        assert store.attributes["complete"] == self.complete
        assert set(self.queries) == {*store.query_ids.tolist()} or not self.complete

    @precondition(lambda self: not self.alive() and self.complete)
    @rule(kill_at=st.integers(0, 60))
    def add_queries(self, kill_at):
        """As `InfluenceStore.add_queries` adds them; it may be killed."""
        n, new = len(self.queries), 100 + len(self.queries)
        columns = {"query": [n], "window": 0, "at_end": 0, "n_tokens": 3, "loss": 0.5}
        block = FeatureBlock(np.ones(1, "f4"), np.ones((1, DIM), "f2"), np.ones(1, "f4"))
        block.sketch = rows_of([new]).sketch.numpy()
        disk = Disk(self.folder, Fault("kill", kill_at))
        with disk.mounted():
            try:
                with StoreWriter.extended(self.folder / "influence.h5") as writer:
                    writer.append("queries", [new], columns | {"tower_version": 0}, block)
            except Killed:
                pass
        if not disk.happened or new in opened(self.folder).query_ids:
            self.queries.append(new)

    @invariant()
    def no_sealed_row_is_forgotten(self):
        if self.run is not None:
            assert self.recorder.segments.n_rows + self._before() == len(self.taken)

    def _before(self):
        return sum(read_description(self.folder)["base_rows"] or [])

    def _die(self):
        self.run.release()
        self.run = self.recorder = None

    def teardown(self):
        if self.run is not None:
            self._die()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.open()
        shutil.rmtree(self.folder)


def test_a_state_without_rows_of_its_own_is_gone_back_to_twice():
    """Found by the machine below: the rows before the state had been in a file that was gone."""
    run = Runs()
    run.start()
    run.rows(2)
    run.checkpoint()
    run.end()
    run.resume(newest=True)
    run.checkpoint()
    run.end()
    run.resume(newest=True)
    run.rows(1)
    run.end()
    run.open()
    run.teardown()


Runs.TestCase.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
test_any_sequence_of_what_happens_to_a_run = Runs.TestCase
