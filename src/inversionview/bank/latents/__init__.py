"""Codes of a sparse dictionary on all rows of a bank, encoded once and kept by latent, and their exact search."""
