"""Preimages of queries, and the sources that make them."""
