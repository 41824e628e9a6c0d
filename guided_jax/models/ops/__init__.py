"""Operations of networks in the form that is fast on each backend: convolution, norm, attention."""
