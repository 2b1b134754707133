"""The configuration of the command; ships inside the package as `influcoder_lightning.conf`."""
