"""What retraining really does: models trained on subsets, and how well scores predict them."""
