"""Optimizers of the trainings; one file for each."""
