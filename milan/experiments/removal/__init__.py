"""Units taken out of a network, and what that costs it."""
