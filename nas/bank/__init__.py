"""The swap bank, and the trained tensors that proxies start from."""
