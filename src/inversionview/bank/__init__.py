"""Activations of a corpus on disk, and their exact search."""
