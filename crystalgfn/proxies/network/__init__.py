"""The property network behind the proxies: its features, training, fine-tuning and error estimate."""
