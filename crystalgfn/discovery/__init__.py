"""Discovery: sample crystals, evaluate them with CHGNet, fine-tune the proxy. Needs ``crystalgfn[structures]``."""
