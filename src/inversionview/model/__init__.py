"""The probed model: its tokens, the backends that run it, loading, checks, distances."""
