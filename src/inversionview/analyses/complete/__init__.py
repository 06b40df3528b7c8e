"""Whether the decoder knows every input inside ε."""
