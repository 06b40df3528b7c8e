"""The good ratio of a decoder."""
