"""Heads that matter for a task, their groups, and what they encode."""
