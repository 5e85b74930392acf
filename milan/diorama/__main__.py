"""``python -m milan.diorama build`` trains Diorama's networks and stand-in models again."""

import runpy

if __name__ == "__main__":
    # By name, since what trains Diorama stands above the world itself.
    runpy.run_module("milan.diorama_build.build_steps", run_name="__main__")
