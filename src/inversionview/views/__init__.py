"""Views of preimages."""
