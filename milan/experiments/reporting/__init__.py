"""What an experiment found, as tables and figures: written, printed, and shown as a page."""
