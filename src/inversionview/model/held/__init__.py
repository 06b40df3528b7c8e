"""Models that are in memory already: laid open as they are, without a copy of their weights and without touching the object."""
