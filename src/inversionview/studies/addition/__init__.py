"""Three-digit addition, with the model that the package ships."""
