"""The decoder's samples held against exact preimages."""
