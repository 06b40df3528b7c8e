"""The drawing kit: tokens, numbers, figures and files that all views share."""
