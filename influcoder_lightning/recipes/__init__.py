"""The steps of the command."""
