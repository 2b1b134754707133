"""Choose samples of a valued pool.

    python recipes/choose.py from=runs/valued select.k=100 hydra.run.dir=runs/chosen

The same as `influcoder recipe=select`. The steps: influcoder_lightning/recipes/select.py. (A script
named select.py would stand before Python's own module of that name.)
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("select")
