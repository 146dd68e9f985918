"""The sampler: environments, policies, losses, rewards and training. It knows nothing of crystals."""
