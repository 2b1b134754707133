"""Train a fresh LoRA on the chosen samples.

    python recipes/retrain.py from=runs/chosen data.eval=eval.jsonl hydra.run.dir=runs/retrained

The same as `influcoder recipe=retrain`. The steps: influcoder_lightning/recipes/retrain.py.
"""

from influcoder_lightning.cli import main

if __name__ == "__main__":
    main("retrain")
