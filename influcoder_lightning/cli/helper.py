"""A further process of a run: ``python -m influcoder_lightning.cli.helper RECIPE``.

The first process starts one for each further device. It goes through the same recipe with the same
settings, which come on standard input, and writes nothing into the run folder.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

from influcoder_lightning.cli.exit import message_of

_PATIENCE = 5.0  # seconds in which the first process finds the same error, and ends this one


def main() -> None:
    """Read the task, and take part until the first process ends this one."""
    recipe, task = sys.argv[1], json.loads(sys.stdin.readline())
    from influcoder_lightning.recipes import recipe_called
    from influcoder_lightning.run.progress import quiet
    from influcoder_lightning.run.settings import Settings
    from influcoder_lightning.run.together import helping

    logging.getLogger("influcoder_lightning").setLevel(logging.ERROR)
    settings = Settings(task["settings"])
    try:
        with quiet(), helping(settings, Path(task["folder"])) as folder:
            recipe_called(recipe).run(settings, folder)
    except Exception as error:
        time.sleep(_PATIENCE)
        message = message_of(error)
        if message is None:
            raise
        print(f"influcoder: {message}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
