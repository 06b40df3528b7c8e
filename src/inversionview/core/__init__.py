"""What everything stands on: errors, files, memory, numbers, progress, results. Knows nothing of models."""
