"""A user's Hydra application: ``python hydra_app.py -m rate=0.01,0.02 hydra.sweep.dir=FOLDER``.

In a multirun, the process that Lightning starts beside each job runs a multirun of its own, with
another output folder.
"""

from __future__ import annotations

import atexit
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import hydra
import torch
from conftest import FineTuning, loader, tiny_peft, tokens, trainer
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from influcoder_lightning import InfluenceCallback


@atexit.register
def leave() -> None:
    """Lightning leaves a gloo group to the interpreter's exit, which it sometimes aborts."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@hydra.main(version_base="1.3", config_path=None, config_name="app")
def main(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    torch.manual_seed(0)
    callback = InfluenceCallback(str(folder / "store"), sketch_dim=64, code_dim=8)
    strategy = DDPStrategy(process_group_backend="gloo")
    run = trainer(folder, [callback], devices=2, strategy=strategy)
    run.fit(FineTuning(tiny_peft(), rate=cfg.rate), loader(tokens(8, seed=51), 4, shuffle=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store("app", {"rate": 0.01})
    main()
