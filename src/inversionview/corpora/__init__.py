"""Inputs of a model: tokens with named positions, features and a split; what is asked of them, changed, contrasted."""
