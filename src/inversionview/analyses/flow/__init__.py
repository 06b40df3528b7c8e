"""How information flows to an answer, and what patching confirms."""
