"""What an activation encodes, in a sentence with a score."""
