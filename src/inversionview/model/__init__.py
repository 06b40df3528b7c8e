"""The probed model: its tokens, its sites, the backends that run it, distances of activations."""
