"""Where and how trainings run; one file for each way."""
