"""``python -m milan.language build`` trains the packaged English pipeline on a treebank."""

import runpy

if __name__ == "__main__":
    # Run by name: an import would point upward in the package layers.
    runpy.run_module("milan.diorama_build.language_pipeline", run_name="__main__")
