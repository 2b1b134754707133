"""Value, select, retrain and compare in one run folder.

    python recipes/pipeline.py model.name=<model> data.pool=pool.jsonl data.query=query.jsonl \
        data.eval=eval.jsonl select.k=100 hydra.run.dir=runs/pipeline

The same as `influcoder recipe=pipeline`. The steps: influcoder_lightning/recipes/pipeline.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("pipeline")
