"""Which coordinates dominate the norm of activations, and on which tokens; the command is sites --norms"""
