"""The experiments: NAME/config.py has the options of each, and NAME/NAME.py the function that runs it."""
