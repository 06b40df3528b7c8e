"""Inputs of a model: rows of tokens with named positions, features and a split; what is asked of them, changed and contrasted."""
