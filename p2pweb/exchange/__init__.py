"""Blobs and records between peers, over HTTP under `/.well-known/p2pweb/`.

`wire` is what travels, `service` answers it (bytes: `giving`), `client` asks for it, and `reader`
finds bytes in memory, on disk, or at the `holders` that FIND_VALUE names. A `crowd` serves itself.

| path | what |
|---|---|
| GET `peer` | JSON: who this is, and its home site |
| GET `peers` | JSON: the addresses of its contacts |
| GET `site/<site id>` | the signed record of the live version; with `?fresh` after asking around |
| GET `blob/<root>/<size>/<segment>` | the segment's bytes, or a range; 307 to who just got it |
| GET `hashes/<root>/<size>` | the joined block hashes |
| POST `bundle` | keep these records and bytes: answered when they are durable |
| POST `publish` | keep them, and place them on the closest peers: answered when those have |
"""
