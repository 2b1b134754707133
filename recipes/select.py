"""Choose samples of a valued pool.

    python recipes/select.py from=runs/valued select.k=100 hydra.run.dir=runs/chosen

The same as `influcoder recipe=select`. The steps: influcoder_lightning/recipes/select.py.
"""

import sys

# Not to be searched for modules: select.py in this folder would stand in for Python's own.
sys.path.pop(0)

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("select")
