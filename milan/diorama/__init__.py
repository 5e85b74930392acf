"""Diorama: an embedded world of rendered scenes whose every pixel is labelled, and networks trained on it.

The annotators who describe the networks' units are simulated; no result of theirs is called human.
"""

from milan.diorama.scene_images import DioramaImages
from milan.diorama.scenes import Scene, draw_scene
from milan.diorama.sentences import generate_sentences

__all__ = ["DioramaImages", "Scene", "draw_scene", "generate_sentences"]
