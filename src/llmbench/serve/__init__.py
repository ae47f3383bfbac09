"""A served endpoint under load: what arrives when, the client's loop, what came back, and how far it can be trusted."""
