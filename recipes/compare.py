"""Retrain on the top, random, bottom and all samples, and measure each.

    python recipes/compare.py from=runs/valued data.eval=eval.jsonl select.k=100 \
        hydra.run.dir=runs/compared

The same as `influcoder recipe=compare`. The steps: influcoder_lightning/recipes/compare.py.
"""

import sys

# Not to be searched for modules: select.py in this folder would stand in for Python's own.
sys.path.pop(0)

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("compare")
