"""Direct logit attribution and its rates over a set; the command is dla."""
