"""Indirect object identification, for any language model."""
