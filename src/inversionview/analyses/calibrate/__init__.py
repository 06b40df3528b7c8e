"""Which distance foretells whether activations can stand in for one another, at every site; ε for bits and nats"""
