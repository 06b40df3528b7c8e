"""Making a run: a decoder, its bank and its ε, for a study or the user's own model and texts."""
