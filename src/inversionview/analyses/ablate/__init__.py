"""Ablation: what activations are worth to the prediction."""
