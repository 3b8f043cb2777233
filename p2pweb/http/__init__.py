"""The HTTP/1.1 front end: bytes → `parser` → `target` → `plan` → `server` → bytes.

`messages` names what flows between them, `fields` and `media_types` are the vocabularies, `answers`
makes the small pages, `head` writes what `connection` sends. Everything but `connection` and
`server` is pure.
"""
