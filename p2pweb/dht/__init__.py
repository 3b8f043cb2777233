"""The Kademlia overlay: a pure core (bytes and `now` in, actions out) and one asyncio shell."""
