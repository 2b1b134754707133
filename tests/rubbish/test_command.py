"""Malformed inputs of the command itself: one line on stderr, exit code 1, nothing left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import corpus_stores
import pytest
from corpus import canary_path, canary_pickle

ROOM = 6 * 2**30  # torch alone maps some of it


def command(commands: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    limit = (ROOM, ROOM)
    return subprocess.run(
        [commands / "influcoder", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )


def test_a_pool_that_is_a_pickle(commands, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "pool.jsonl").write_bytes(canary_pickle(folder))
    done = command(commands, folder, "recipe=valuate", "data.pool=pool.jsonl", "hydra.run.dir=run")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("influcoder: ")
    assert "pool.jsonl:1: " in lines[0]
    assert not canary_path(folder).exists()
    assert sorted(path.name for path in folder.iterdir()) == ["pool.jsonl", "run"]


@pytest.mark.parametrize(
    "argument", ["train.lr=[1", "train=[1]", "data.pool=a=b", "recipe=../../x", "lora.r=${"]
)
def test_what_hydra_itself_refuses(commands, tmp_path, argument):
    done = command(commands, tmp_path, argument)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".jsonl", ".h5")]


# Many flips in one process of its own: HDF5 is C, and could take it down.
FLIPS = """
import resource, sys, warnings
from pathlib import Path
import numpy as np
from corpus import DOCUMENTED, causes, flipped
from corpus_stores import read_all

warnings.simplefilter("ignore")
path, data = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
read_all(Path(sys.argv[2]))
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
rng = np.random.default_rng(0)
for at in rng.integers(0, len(data), 40).tolist():
    path.write_bytes(flipped(data, at, at))
    try:
        read_all(path)
    except DOCUMENTED as error:
        assert not any(isinstance(cause, MemoryError) for cause in causes(error)), repr(error)
print("alive")
"""


def test_a_store_with_flipped_bits_does_not_take_the_process_down(tmp_path):
    intact = tmp_path / "intact.h5"
    intact.write_bytes(corpus_stores.store())
    (tmp_path / "damaged").mkdir()
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(tmp_path / "damaged" / "influence.h5"), str(intact)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests / "rubbish")])},
        cwd=tests.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == "alive", done.stderr[-2000:]
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["influence.h5"]
