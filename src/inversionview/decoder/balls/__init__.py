"""Inputs drawn from the ε-balls of activations, for a decoder to learn: found by search, or by walking."""
