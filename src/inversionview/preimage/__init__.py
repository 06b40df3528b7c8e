"""The query and its preimage; what is common in it, and how both are shown."""
