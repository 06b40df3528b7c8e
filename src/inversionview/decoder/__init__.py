"""The decoder p(x ∣ z): its networks, training, sampling, scoring and files."""
