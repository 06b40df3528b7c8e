"""What the explorer asks of a study, as models of the contract; no web here."""
