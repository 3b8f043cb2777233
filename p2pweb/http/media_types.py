"""File name → media type, from a table of our own.

The standard library's answers depend on the machine's configuration; a published version must be
the same wherever it is made, so the table is kept here. The types are IANA's registered ones;
`text/*` gets `charset=utf-8`, the only encoding that p2pweb expects of text. Others get none:
JSON has no such parameter (RFC 8259 §11), and an XML document (SVG, Atom and XHTML too) declares
its encoding itself, which a charset parameter would overrule (RFC 7303 §3).
"""

from __future__ import annotations

DEFAULT_MEDIA_TYPE = "application/octet-stream"

# What a compressor makes shorter, beside all text and whatever is JSON or XML by its suffix
# (RFC 6839). Not here: what is compressed in itself (most images, sound and film, woff, archives,
# documents), what programs read by ranges, which are ranges of the identity (PDF, SQLite, Parquet),
# and files of a kind that nobody knows.
_COMPRESSIBLE = frozenset(
    [
        # Text, but not called so.
        "application/json",
        "application/xml",
        "application/yaml",
        "application/toml",
        "application/rtf",
        "application/vnd.apple.mpegurl",
        # Code and tables of numbers: half of it or more.
        "application/wasm",
        "font/ttf",
        "font/otf",
        "font/collection",
        "application/vnd.ms-fontobject",
        "model/gltf-binary",
        "model/stl",
        # Pixels as they are.
        "image/bmp",
        "image/vnd.microsoft.icon",
    ]
)

# By the last extension, in lower case.
_BY_EXTENSION = {
    # Pages, styles, scripts.
    "html": "text/html",
    "htm": "text/html",
    "xhtml": "application/xhtml+xml",
    "xht": "application/xhtml+xml",
    "css": "text/css",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "cjs": "text/javascript",
    "wasm": "application/wasm",
    # Data.
    "json": "application/json",
    "map": "application/json",
    "jsonld": "application/ld+json",
    "geojson": "application/geo+json",
    "topojson": "application/json",
    "webmanifest": "application/manifest+json",
    "xml": "application/xml",
    "xsd": "application/xml",
    "xsl": "application/xslt+xml",
    "xslt": "application/xslt+xml",
    "atom": "application/atom+xml",
    "rss": "application/rss+xml",
    "rdf": "application/rdf+xml",
    "kml": "application/vnd.google-earth.kml+xml",
    "gpx": "application/gpx+xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "toml": "application/toml",
    "sqlite": "application/vnd.sqlite3",
    "parquet": "application/vnd.apache.parquet",
    # Text.
    "txt": "text/plain",
    "text": "text/plain",
    "log": "text/plain",
    "asc": "text/plain",
    "md": "text/markdown",
    "markdown": "text/markdown",
    "rst": "text/plain",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "ics": "text/calendar",
    "vcf": "text/vcard",
    "vtt": "text/vtt",
    "srt": "text/plain",
    # Images.
    "svg": "image/svg+xml",
    "png": "image/png",
    "apng": "image/apng",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "jxl": "image/jxl",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "heic": "image/heic",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "ico": "image/vnd.microsoft.icon",
    "cur": "image/vnd.microsoft.icon",
    # Fonts.
    "woff": "font/woff",
    "woff2": "font/woff2",
    "ttf": "font/ttf",
    "otf": "font/otf",
    "ttc": "font/collection",
    "eot": "application/vnd.ms-fontobject",
    # Sound and film.
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "mid": "audio/midi",
    "midi": "audio/midi",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "webm": "video/webm",
    "ogv": "video/ogg",
    "mov": "video/quicktime",
    "mkv": "video/matroska",
    "ts": "video/mp2t",
    "m3u8": "application/vnd.apple.mpegurl",
    "mpd": "application/dash+xml",
    # Models.
    "gltf": "model/gltf+json",
    "glb": "model/gltf-binary",
    "stl": "model/stl",
    # Documents and books.
    "pdf": "application/pdf",
    "epub": "application/epub+zip",
    "rtf": "application/rtf",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
    # Archives.
    "zip": "application/zip",
    "gz": "application/gzip",
    "tgz": "application/gzip",
    "bz2": "application/x-bzip2",
    "xz": "application/x-xz",
    "zst": "application/zstd",
    "tar": "application/x-tar",
    "7z": "application/x-7z-compressed",
    "jar": "application/java-archive",
    "apk": "application/vnd.android.package-archive",
}

# Names that are known whole, in any case.
_BY_NAME = {
    "license": "text/plain",
    "readme": "text/plain",
    "changelog": "text/plain",
    "authors": "text/plain",
    # Site-wide association files have a fixed name without an extension.
    "apple-app-site-association": "application/json",
}


def media_type_of(name: str) -> str:
    """The Content-Type for a file name or URL path, with its charset where it has one."""
    base = name.rpartition("/")[2].lower()
    stem, dot, extension = base.rpartition(".")
    # A name like ".txt" is hidden, not a kind.
    found = _BY_EXTENSION.get(extension) if dot and stem else _BY_NAME.get(base)
    if found is None:
        return DEFAULT_MEDIA_TYPE
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


def is_compressible(media_type: str) -> bool:
    """Whether files of this type, which may have parameters, usually become shorter."""
    bare = media_type.partition(";")[0]
    return bare.startswith("text/") or bare.endswith(("+json", "+xml")) or bare in _COMPRESSIBLE
