"""The small world that the package draws itself: scenes in which what every pixel shows is known, networks that look at them, and annotators
that put into words what their units see. Nothing about it is called human: the annotators are simulated."""

from milan.diorama.probe import DioramaImages
from milan.diorama.scenes import Scene, draw
from milan.diorama.sentences import sentences

__all__ = ["DioramaImages", "Scene", "draw", "sentences"]
