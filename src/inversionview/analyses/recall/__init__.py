"""Factual recall: heads that retrieve facts, and what they carry."""
