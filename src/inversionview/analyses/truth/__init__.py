"""A decoder's samples against exact preimages."""
