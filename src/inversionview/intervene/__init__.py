"""Runs of the model with activations replaced by those of other inputs."""
