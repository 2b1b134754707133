"""What counts as a sample id: an integer of 64 bits, or a string that a file can hold."""

SampleId = int | str

INT64 = range(-(2**63), 2**63)


def is_canonical_int(text: str) -> bool:
    """Whether `text` is what `str` makes of an int64: no leading zeros, plus sign or spaces."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return False
    return str(int(text)) == text and int(text) in INT64


def unwritable(text: str) -> str:
    """What keeps a text out of files: NUL ends it in HDF5, a lone surrogate is no UTF-8."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "a lone surrogate"
    return ""
