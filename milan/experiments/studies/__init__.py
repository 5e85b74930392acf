"""Forms that people fill in, and what is made of their answers."""
