"""How a reading depends on ε."""
