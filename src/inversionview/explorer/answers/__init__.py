"""What the explorer asks of a study: functions that return models of the contract; no web here."""
