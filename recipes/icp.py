"""Value every sample as a one-shot demonstration for the queries.

    python recipes/icp.py model.name=<model> data.pool=pool.jsonl data.query=query.jsonl \
        hydra.run.dir=runs/icp

The same as `influcoder recipe=icp`. The steps: influcoder_lightning/recipes/icp.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("icp")
