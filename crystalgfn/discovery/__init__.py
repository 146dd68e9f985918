"""What a crystal is worth, learned from crystals that were built and relaxed. Needs ``crystalgfn[structures]``."""
