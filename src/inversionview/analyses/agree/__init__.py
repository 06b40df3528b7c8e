"""The sources held against each other on one preimage."""
