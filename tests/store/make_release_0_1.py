"""Makes the archives in `release_0_1/`; run with release 0.1.0 (commit 34b0bde) on the path.

    git archive 34b0bde | tar x -C OLD
    PYTHONPATH=OLD python tests/store/make_release_0_1.py

``finished.tar.gz``: 24 rows in 2 windows, random projection, sketches kept; states of checkpoints
beside the store. ``killed.tar.gz``: a co-training run whose process ended in step 8 of 12, after a
checkpoint at step 6: run.json, segments of waiting rows, states, no influence.h5. Each has the
Trainer's checkpoint as ``last.ckpt`` beside ``store/``, and goes on with `run` from `released.py`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from released import HERE, ROWS, Stopping, run


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        finished, killed = Path(work, "finished"), Path(work, "killed")
        run(finished, co_train=False)
        pack(finished)
        child = os.fork()
        if not child:
            run(killed, Stopping(lambda: os._exit(0), step=8), co_train=True)
        os.waitpid(child, 0)
        pack(killed)
    print(f"{ROWS} rows in a whole run")


def pack(folder: Path) -> None:
    for checkpoint in folder.glob("epoch*.ckpt"):
        checkpoint.unlink()
    shutil.rmtree(folder / "lightning_logs", ignore_errors=True)
    with tarfile.open(HERE / f"{folder.name}.tar.gz", "w:gz") as archive:
        archive.add(folder, ".", filter=anonymous)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
