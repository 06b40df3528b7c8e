"""What an activation encodes, in a sentence, from features or by a language model; and a score that says whether it is true."""
