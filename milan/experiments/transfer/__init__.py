"""MILAN learned from the annotations of some networks, and asked about others."""
