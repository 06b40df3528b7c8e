"""A bank of activations: every site at the named positions of a whole corpus, on disk, searched exactly."""
