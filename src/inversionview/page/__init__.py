"""Readings as HTML: every JSON value, the ES modules, one file that holds both."""
