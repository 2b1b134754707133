"""Parts of the callback: what it does about trouble, checkpoints, learning rates and warnings."""
