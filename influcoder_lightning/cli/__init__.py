"""The `influcoder` command: compose, refuse, run, end, sum up."""

from influcoder_lightning.cli.command import main, run_recipe

__all__ = ["main", "run_recipe"]
