"""Direct logit attribution, and its rates over a set."""
