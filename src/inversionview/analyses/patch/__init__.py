"""Activation patching: how far each activation moves the answer."""
