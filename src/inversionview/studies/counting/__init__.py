"""The counting study."""
