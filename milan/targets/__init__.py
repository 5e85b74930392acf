"""Targets: networks under study, how to load one, and which of its layers can be dissected."""
