"""Factual recall: heads that retrieve, and what they carry."""
