"""Bits at every site and position as ε grows."""
