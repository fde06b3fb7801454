"""Which GPU, how many, at what price."""
