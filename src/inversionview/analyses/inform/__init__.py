"""Bits about each feature at every site and position."""
