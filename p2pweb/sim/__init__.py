"""Real peers on a virtual clock, in a network of memory: one seed decides everything."""
