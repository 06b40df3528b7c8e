"""Whether what is said of an activation is true: anyone's statements, tested on inputs inside ε and outside."""
