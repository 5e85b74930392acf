"""What descriptions predict of their units, as tables: activations, and the pairs that no explanation was made from."""
