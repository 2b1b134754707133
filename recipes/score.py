"""Rank new samples, or towards new queries, with what a run has learned.

    python recipes/score.py from=runs/valued data.pool=new.jsonl hydra.run.dir=runs/scored

The same as `influcoder recipe=score`. The steps: influcoder_lightning/recipes/score.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("score")
