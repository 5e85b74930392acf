"""What descriptions are good for: models audited, spurious features edited away, adversarial images pasted."""
