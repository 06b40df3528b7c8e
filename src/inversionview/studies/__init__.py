"""The studies: the inputs and the definition of each, and what the package ships with them."""
