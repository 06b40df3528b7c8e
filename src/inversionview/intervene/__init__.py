"""Patched runs: activations replaced by those of other inputs, and what the model still predicts."""
