"""Retrain on random subsets and see which scores predicted it.

    python recipes/lds.py model.name=<model> data.pool=pool.jsonl data.query=query.jsonl \
        hydra.run.dir=runs/lds

The same as `influcoder recipe=lds`. The steps: influcoder_lightning/recipes/lds.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("lds")
