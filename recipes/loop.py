"""Value, choose and retrain in rounds; compare the final choice at equal compute.

    python recipes/loop.py model.name=<model> data.pool=pool.jsonl data.query=query.jsonl \
        data.eval=eval.jsonl loop.share=0.3 hydra.run.dir=runs/loop

The same as `influcoder recipe=loop`. The steps: influcoder_lightning/recipes/loop.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("loop")
