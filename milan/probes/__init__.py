"""Probes: the images a network is looked at with, in a fixed order, from wherever they come."""

from milan.probes.probe import Probe, load_probe

__all__ = ["Probe", "load_probe"]
