"""Callbacks for projects that compose their Trainer with Hydra; see docs/how-to/hydra.md."""
