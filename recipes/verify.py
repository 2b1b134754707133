"""Check all that a run has written.

    python recipes/verify.py from=runs/valued hydra.run.dir=runs/verified

The same as `influcoder recipe=verify`. The steps: influcoder_lightning/recipes/verify.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("verify")
