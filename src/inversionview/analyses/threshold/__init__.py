"""How a reading depends on ε, and an ε from the gap of the distances."""
