"""What a query is, and its preimage: the value that sources make, views show and analyses read."""
