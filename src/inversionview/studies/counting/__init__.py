"""Counting a letter in a string, with the model that the package ships."""
