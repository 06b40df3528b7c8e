"""Factual recall, for any language model."""
