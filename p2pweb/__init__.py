"""p2pweb: a static web site hosted by the machines its owners already have.

The layers, from the top: `cli`; `config`, `node`; `gateway`, `publish`, `replication`;
`directory`, `holdings`, `peer_state`, `sites`; `exchange`; the three siblings `dht`, `http`,
`store`; `manifest`; `records`; `address`, `blobs`, `keys`; `clock`, `errors`. Imports run downwards
only. ARCHITECTURE.md has the way of a request and of a publish through them.
"""

__version__ = "0.1.0"
