"""Does the decoder know every input inside ε?"""
