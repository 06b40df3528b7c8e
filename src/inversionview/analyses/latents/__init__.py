"""Which latents of a dictionary fire at one activation, by how much each of them tells."""
