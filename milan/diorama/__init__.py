"""The small world that the package draws itself: scenes in which what every pixel shows is known, and networks that look at them.

Annotators put into words what the networks' units see. Nothing about it is called human: the annotators are simulated.
"""

from milan.diorama.probe import DioramaImages
from milan.diorama.scenes import Scene, draw
from milan.diorama.sentences import sentences

__all__ = ["DioramaImages", "Scene", "draw", "sentences"]
