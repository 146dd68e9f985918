"""The commands of the command line. Each module has a function ``main``, which runs its command."""
