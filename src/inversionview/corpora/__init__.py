"""Inputs: tokens with named positions and features; texts, filters, contrasts, moves."""
