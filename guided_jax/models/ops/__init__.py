"""The operations that networks are made of, in the form that is fast on each backend: convolution, norm, attention."""
