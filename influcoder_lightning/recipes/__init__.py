"""One file per step of the `influcoder` command, each with `run(cfg, folder)`."""
