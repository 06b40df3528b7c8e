"""Heads that matter for a task, and their groups."""
