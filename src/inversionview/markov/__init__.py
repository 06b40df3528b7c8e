"""The Markov chain from the query that never leaves ε, and whether it has mixed."""
