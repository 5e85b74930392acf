"""Networks and what describers say of their units: in this run, or in runs of before."""
