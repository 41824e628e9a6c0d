"""Published weights in our networks: one module a family, and readers of the files that they come in."""
