"""One file per experiment, with one function of the file's name; what experiments share is in packages."""
