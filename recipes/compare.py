"""Retrain on the top, random, bottom and all samples, and measure each.

    python recipes/compare.py from=runs/valued data.eval=eval.jsonl select.k=100 \
        hydra.run.dir=runs/compared

The same as `influcoder recipe=compare`. The steps: influcoder_lightning/recipes/compare.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("compare")
