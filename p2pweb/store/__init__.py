"""What a peer keeps: records and the bytes that they warrant, verified on the way in and out.

`Store` is the one door, `Reading` the half of it that changes nothing. It keeps its books in SQLite
(`records`), small segments there too, and long ones in a `SegmentFolder` (disk) or a `SegmentShelf`
(memory, for simulations).
"""
