"""Making a run: a decoder, its bank and its ε, for a study or for texts of the user's own."""
