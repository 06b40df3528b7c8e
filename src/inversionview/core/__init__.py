"""What everything stands on: errors, storage, memory, numbers, progress, results."""
