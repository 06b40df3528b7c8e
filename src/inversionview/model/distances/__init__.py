"""Distances between activations: two geometries, the linear maps before them, and statistics that some of these need."""
