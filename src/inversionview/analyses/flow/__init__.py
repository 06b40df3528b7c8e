"""The flow of information to an answer."""
