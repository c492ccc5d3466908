"""Deltas of bytes: whatever changed, the result is the new version bit for bit, and nothing else comes of damaged ones."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.messages import PolicyVersion
from protocol.weights.messages import Manifest, TensorEntry
from protocol.weights.patch import GAPS, MASK, WHOLE, DamagedDeltaError, apply_piece, encode_block, join, split, width_of

WIDTHS = st.sampled_from([1, 2, 4])


@st.composite
def blocks(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """An old and a new block, any share of whose elements differ, and the width by which they are compared."""
    width, elements = draw(WIDTHS), draw(st.integers(0, 3000))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    old = rng.integers(0, 256, elements * width + draw(st.integers(0, 3)), dtype=np.uint8)
    new = old.copy()
    share = draw(st.sampled_from([0.0, 0.0005, 0.01, 0.1, 0.5, 0.9, 1.0]))
    new[rng.random(len(new)) < share] ^= draw(st.integers(1, 255))
    return old.tobytes(), new.tobytes(), width


@settings(deadline=None)
@given(blocks())
def test_the_result_is_the_new_block_bit_for_bit_once_and_twice(case: tuple[bytes, bytes, int]) -> None:
    old, new, width = case
    piece = encode_block(old, new, width)
    block = bytearray(old)
    for _ in range(2):
        apply_piece(piece, block)
        assert block == new
    assert len(piece) <= len(new) + 9


@settings(deadline=None)
@given(blocks(), st.integers(0, 1 << 30))
def test_a_delta_overwrites_whatever_was_there(case: tuple[bytes, bytes, int], seed: int) -> None:
    """Where old and new differ nothing of the old is left, so going over half-applied bytes is as good as starting anew."""
    old, new, width = case
    half = bytearray(old)
    rng = np.random.default_rng(seed)
    for at in np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)):
        half[at] = int(rng.integers(0, 256))
    apply_piece(encode_block(old, new, width), half)
    assert half == new


@settings(deadline=None)
@given(blocks(), st.binary(max_size=64), st.integers(0, 1 << 30))
def test_damaged_pieces_end_in_one_kind_of_error_or_in_other_bytes(case: tuple[bytes, bytes, int], rubbish: bytes, at: int) -> None:
    old, new, width = case
    piece = bytearray(encode_block(old, new, width))
    assume(piece)
    start = at % len(piece)
    piece[start : start + len(rubbish)] = rubbish
    block = bytearray(old)
    try:
        apply_piece(piece, block)
    except DamagedDeltaError:
        return
    assert len(block) == len(old)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_as_a_piece(piece: bytes, size: int) -> None:
    with contextlib.suppress(DamagedDeltaError):
        apply_piece(piece, bytearray(size))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50)), st.binary(max_size=5))
def test_pieces_are_joined_and_split(pieces: list[bytes], tail: bytes) -> None:
    delta = b"".join(join(pieces))
    assert [bytes(piece) for piece in split(delta, len(pieces))] == pieces
    for wrong in (len(pieces) + 1, len(pieces) - 1):
        with pytest.raises(DamagedDeltaError):
            split(delta, wrong)
    if tail:
        with pytest.raises(DamagedDeltaError):
            split(delta + tail, len(pieces))


@pytest.mark.parametrize(
    ("share", "kind", "bytes_of_whole"), [(0.01, GAPS, 0.016), (0.1, GAPS, 0.16), (0.6, MASK, 0.67), (1.0, WHOLE, 1.001)]
)
def test_the_smallest_way_to_say_it_is_taken(share: float, kind: int, bytes_of_whole: float) -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0, 1 << 16, 100_000, dtype=np.uint16)
    new = old.copy()
    new[rng.random(len(old)) < share] ^= 1
    piece = encode_block(old.tobytes(), new.tobytes(), 2)
    assert piece[0] == kind
    assert len(piece) <= bytes_of_whole * new.nbytes


def test_versions_are_compared_by_their_smallest_element() -> None:
    def manifest(*dtypes: str) -> Manifest:
        return Manifest(PolicyVersion(0, 1), [TensorEntry("t", dtype, [1], 0, 1) for dtype in dtypes], 1, 4096, [], "")

    assert [width_of(manifest(*dtypes)) for dtypes in (["F32"], ["F32", "BF16"], ["BF16", "U8"], [])] == [4, 2, 1, 1]
