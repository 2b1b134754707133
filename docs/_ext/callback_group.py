"""conf/callbacks/influence.yaml, from the callback's signature and the help of its options.

python docs/_ext/callback_group.py     rewrites the file; a test holds them equal
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from influcoder_lightning import InfluenceCallback
from influcoder_lightning.configuration.influence import OfCallback
from influcoder_lightning.configuration.key import keys

FILE = Path(__file__).parents[2] / "conf" / "callbacks" / "influence.yaml"
_HEAD = """\
# The callback for projects of your own that compose their Trainer with Hydra:
#   hydra.searchpath: [pkg://influcoder_lightning.conf], and in the defaults list `- callbacks: \
influence`
influence:
"""
_HYDRA = {
    "_target_: influcoder_lightning.InfluenceCallback": "the class that hydra.utils.instantiate "
    "makes",
    "_convert_: all": "lists and dicts reach the callback as Python's own, so that checkpoints "
    "stay loadable",
}


def group() -> str:
    """The content of the file."""
    help_of = {key.name: key.help for key in keys(OfCallback)}
    lines = dict(_HYDRA)
    for name, parameter in inspect.signature(InfluenceCallback).parameters.items():
        lines[f"{name}: {_written(parameter.default)}"] = help_of[name]
    return _HEAD + "".join(f"  {line:<27} # {text}\n" for line, text in lines.items())


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    FILE.write_text(group(), encoding="utf-8")
