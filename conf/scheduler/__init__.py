"""How the learning rate goes; one file for each way."""
