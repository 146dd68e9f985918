"""Discovery: sample crystals, evaluate them with a potential, fine-tune the proxy. Needs ``crystalgfn[structures]``."""
