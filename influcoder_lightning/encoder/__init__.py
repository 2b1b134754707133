"""The two towers: sketch -> code (gradient tower), text -> code (text tower), and co-training."""
