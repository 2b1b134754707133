"""Compare two rankings, ours or from elsewhere.

    python recipes/agreement.py a=runs/first b=scores.json hydra.run.dir=runs/agreement

The same as `influcoder recipe=agreement`. The steps: influcoder_lightning/recipes/agreement.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("agreement")
