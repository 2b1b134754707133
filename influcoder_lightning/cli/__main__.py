"""`python -m influcoder_lightning.cli` is the command `influcoder`."""

from influcoder_lightning.cli import main

main()
