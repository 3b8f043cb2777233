"""The HTTP/1.1 front end: bytes → `parser` → `target` → `plan` → `content` → bytes.

`messages` names what flows between them, `fields`, `authority` and `media_types` are the
vocabularies, `request_head` and `response_head` the two ends of a message, `answers` makes the
small pages. All of these are pure. `server` accepts connections, a `connection` carries one
visitor's `exchange`s, and `service` is what a user of the server meets.
"""
