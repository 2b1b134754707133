"""Codes in fewer bytes: int8, each row on a scale of its own.

The largest number of a row becomes 127 or -127. Since codes have length 1, the scale follows from
the row itself (one over its length) and is not stored; rankings by cosines never need it.
"""

from __future__ import annotations

import numpy as np

from influcoder_lightning.errors import CaptureError

CODE_DTYPES = {"float16": "f2", "int8": "i1"}
_LARGEST = 127


def quantized(codes: np.ndarray) -> np.ndarray:
    """[n, d] int8 of unit codes [n, d]; zero rows stay zero.

    Raises:
        CaptureError: a number is not finite, which int8 cannot say.
    """
    wide = codes.astype(np.float32)
    if not np.isfinite(wide).all():
        raise CaptureError(
            "a code is not finite and cannot be stored as int8: look for overflow in that "
            "training, or value with code_dtype='float16'."
        )
    largest = np.abs(wide).max(axis=1, initial=0, keepdims=True)
    wide *= _LARGEST / np.where(largest > 0, largest, 1)
    return np.rint(wide).astype(np.int8)


def unit_codes(stored: np.ndarray) -> np.ndarray:
    """[n, d] float16 codes of length 1, from either type."""
    if stored.dtype == np.float16:
        return stored
    wide = stored.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(norms > 0, norms, 1), dtype=np.float16)
