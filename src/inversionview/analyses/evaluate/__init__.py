"""The good ratio: the share of a decoder's samples that lies inside ε."""
