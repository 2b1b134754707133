"""A training step in, per-sample LoRA gradients out, in each sample's own loss unit."""
