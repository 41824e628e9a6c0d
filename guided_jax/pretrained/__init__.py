"""Published weights in our networks: one module for each family, `state_dict` for what they share, `readers` of files."""
