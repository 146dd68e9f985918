"""The commands of the command line that need no Trainer: one module each, with a function ``main``."""
