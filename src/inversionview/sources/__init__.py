"""What makes a preimage: the corpus, the decoder, a walk; one protocol, one registry."""
