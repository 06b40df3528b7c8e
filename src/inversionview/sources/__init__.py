"""What makes a preimage: the corpus, the decoder, a walk."""
