"""What ``describe.py`` describes without arguments."""

DEFAULT_TARGET, DEFAULT_PROBE = "diorama:resnet-objects", "diorama:objects"
