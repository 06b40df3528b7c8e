"""Analyses of preimages: features, curves over ε, and the decoder held against the truth."""
