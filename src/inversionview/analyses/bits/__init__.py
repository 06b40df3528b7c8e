"""Bits over ε, site by site."""
