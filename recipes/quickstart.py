"""The whole story on built-in data, without network, in about a minute.

    python recipes/quickstart.py hydra.run.dir=runs/quickstart

The same as `influcoder recipe=quickstart`. The steps: influcoder_lightning/recipes/quickstart.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("quickstart")
