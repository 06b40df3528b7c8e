"""Records of the user's: one reader for texts, pairs, prompts, names and facts, whichever form their file has."""
