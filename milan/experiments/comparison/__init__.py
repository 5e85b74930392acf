"""Describers beside each other, and beside people, floors and what is true."""
