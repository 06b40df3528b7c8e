"""The walk: a Markov chain from the query that never leaves its ε-preimage."""
