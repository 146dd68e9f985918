"""GFlowNets for any kind of object: environments, policies, losses, rewards and training. No code for crystals."""
