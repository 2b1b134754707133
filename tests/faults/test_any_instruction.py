"""Ctrl-C at any instruction of sealing or merging: it can be repeated, and loses nothing."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sealing
from disk import Fault
from lives import Seen, content, lived, opened

import influcoder_lightning

PACKAGE = str(Path(influcoder_lightning.__file__).parent)
STRIDE = 23  # a prime, so that the places are spread


class Interruption:
    """KeyboardInterrupt at one instruction of the package's files, counted from 1.

    Raised there, as if nothing could hold it back; or by its signal, as a user's is.
    """

    def __init__(self, at: int, files: tuple[str, ...], by_signal: bool = False) -> None:
        self.at, self.count, self.files, self.by_signal = at, 0, files, by_signal

    @contextmanager
    def armed(self):
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame, event, argument):
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or not name.endswith(self.files):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._traced

    def _traced(self, frame, event, argument):
        if event == "opcode":
            self.count += 1
            if self.count == self.at:
                if not self.by_signal:
                    raise KeyboardInterrupt
                signal.raise_signal(signal.SIGINT)
        return self._traced


SEALING = ("segments.py", "manifest.py", "chain.py", "durable.py", "flat.py", "open_segment.py")


def interrupted(folder, at):
    """A process that is interrupted while it seals its second segment."""
    folder.mkdir()
    sealing.prepare(folder)
    segments = sealing.writer(folder)
    sealing.put(segments, [0, 1])
    segments.seal()
    sealing.put(segments, [2])
    interruption = Interruption(at, SEALING)
    try:
        with interruption.armed():
            segments.seal()
    except KeyboardInterrupt:
        pass
    return interruption, segments


@pytest.mark.parametrize("goes_on", [True, False], ids=["abort seals again", "the process ends"])
def test_sealing(tmp_path, goes_on):
    n, _ = interrupted(tmp_path / "whole", 0)
    for at in range(1 + STRIDE // 2 * goes_on, n.count, STRIDE):
        folder = tmp_path / str(at)
        _, segments = interrupted(folder, at)
        if goes_on:
            segments.explain_missing("it ended")
            sealing.put(segments, [3])
            segments.seal()
            assert sealing.sealed(folder) == [0, 1, 2, 3], at
            assert segments.n_rows == 4
        else:
            assert sealing.sealed(folder) in ([0, 1], [0, 1, 2]), at


def test_merging(tmp_path):
    """Also inside what HDF5 calls to write: it never learns of the interruption."""
    lived(tmp_path, Seen(), Fault("kill", 100))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        whole = merged(tmp_path, 0)
        for at in range(1, whole[0].count, 577):
            interruption, was_interrupted = merged(tmp_path, at)[:2]
            assert was_interrupted or interruption.count < at
            store = tmp_path / "influence.h5"
            assert not list(tmp_path.glob(".influence.h5.*"))
            if store.exists():
                np.testing.assert_array_equal(content(opened(tmp_path))["codes"], whole[2])
                store.unlink()
    finally:
        signal.signal(signal.SIGINT, before)


def merged(folder, at):
    """A store that is opened, with an interruption; whether it came, and the codes."""
    interruption, interrupted = Interruption(at, ("output.py", "merge.py"), by_signal=True), False
    try:
        with interruption.armed():
            opened(folder)
    except KeyboardInterrupt:
        interrupted = True
    codes = None if interrupted else content(opened(folder))["codes"]
    if at == 0:
        (folder / "influence.h5").unlink()
    return interruption, interrupted, codes
