"""Bits that sites tell at positions, by feature."""
