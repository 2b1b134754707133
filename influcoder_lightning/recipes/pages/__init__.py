"""What the pages of the recipes say: lists of findings."""
