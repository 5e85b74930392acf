"""``python -m milan.language build`` trains the package's English pipeline on a treebank."""

import runpy

if __name__ == "__main__":
    # By name, since what trains the pipeline stands above it.
    runpy.run_module("milan.diorama_build.language_pipeline", run_name="__main__")
