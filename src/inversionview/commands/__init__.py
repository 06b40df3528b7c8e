"""The commands of the command line: each a few lines over the library. Heavy imports wait until one needs them."""
