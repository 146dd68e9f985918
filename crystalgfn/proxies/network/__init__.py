"""The property network behind the proxies: features, training, fine-tuning and error estimate."""
