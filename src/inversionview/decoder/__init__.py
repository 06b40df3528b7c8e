"""The decoder p_θ(x ∣ z, s): model, training, sampling, evaluation."""
