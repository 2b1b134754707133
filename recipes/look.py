"""What a valuation would see of the rows, and what it would take.

    python recipes/look.py model.name=runs/first/model data.pool=pool.jsonl

The same as `influcoder recipe=look`. The steps: influcoder_lightning/recipes/look.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("look")
