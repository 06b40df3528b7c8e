"""The drawing kit of every show.py: tokens, numbers, colours."""
