"""Where a vector is read, and how it is written; a file for each kind of site."""
