"""p2pweb: a static web site hosted by the machines its owners already have.

The layers, from the bottom: `errors`, `clock`, `keys`; `blobs`, `records`; `manifest`; the three
siblings `store`, `dht`, `http`; `exchange`; `replication`, `gateway`, `directory`, `publish`;
`node`; `cli`. Imports run downwards only.
"""

__version__ = "0.1.0"
