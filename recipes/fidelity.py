"""Measure which cheap scores order samples as exact gradients do.

    python recipes/fidelity.py model.name=<model> data.pool=pool.jsonl data.query=query.jsonl \
        hydra.run.dir=runs/fidelity

The same as `influcoder recipe=fidelity`. The steps: influcoder_lightning/recipes/fidelity.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("fidelity")
