"""How a run's queries fared, at every window and at the end.

    python recipes/queries.py from=runs/valued hydra.run.dir=runs/queries

The same as `influcoder recipe=queries`. The steps: influcoder_lightning/recipes/queries.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("queries")
