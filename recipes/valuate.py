"""Fine-tune once and value every sample on the way.

    python recipes/valuate.py model.name=<model> data.pool=pool.jsonl data.query=query.jsonl \
        hydra.run.dir=runs/valued

The same as `influcoder recipe=valuate`. The steps: influcoder_lightning/recipes/valuate.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("valuate")
