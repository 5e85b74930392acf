"""Probes: the images that a target is run on, in a fixed order, from any source."""

from milan.probes.probe import Probe
from milan.probes.probe_loading import load_probe

__all__ = ["Probe", "load_probe"]
