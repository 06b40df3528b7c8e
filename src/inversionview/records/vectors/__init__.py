"""Vectors from outside: probes, steering directions and activations, in the files that other tools write."""
