"""The manifest is a chain: no line can be lost, doubled, moved or changed without being noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_segments import begin, put, writer

from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.chain import begun, extended, parsed
from influcoder_lightning.store.folder import rank_folder
from influcoder_lightning.store.manifest import Manifest, Segment


def lines_of(n):
    line, listing = begun("run", 0)
    lines = [line]
    for i in range(n):
        segment = Segment(f"{i:08d}.h5", f"{i:08x}", rows=i, seen=i, waiting=False)
        line, listing = extended(listing, segment)
        lines.append(line)
    return lines, listing


def test_a_list_comes_back_as_it_was(tmp_path):
    lines, listing = lines_of(4)
    assert parsed(tmp_path, b"".join(lines)) == listing
    assert listing.size == sum(map(len, lines))
    assert listing.next_free == 4


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_change_of_the_lines_before_the_last_is_noticed(data):
    """Lines left out, doubled, swapped; bits flipped."""
    lines, _ = lines_of(5)
    where = data.draw(st.integers(0, 4))
    kind = data.draw(st.sampled_from(["left out", "doubled", "swapped", "flipped"]))
    if kind == "left out":
        del lines[where]
    elif kind == "doubled":
        lines.insert(where, lines[where])
    elif kind == "swapped":
        lines[where], lines[where + 1] = lines[where + 1], lines[where]
    else:
        line = bytearray(lines[where])
        line[data.draw(st.integers(0, len(line) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        lines[where] = bytes(line)
    with pytest.raises(StoreError, match="no entry of a segment"):
        parsed("manifest", b"".join(lines))


@pytest.mark.parametrize("zeros", [False, True], ids=["cut short", "a block missing"])
@pytest.mark.parametrize("n", [1, 40, 150])
def test_a_last_line_that_was_not_finished_does_not_count(n, zeros):
    lines, _ = lines_of(3)
    last = lines[-1]
    torn = last[:n] + (b"\0" * (len(last) - n - 1) + b"\n" if zeros else b"")
    listing = parsed("manifest", b"".join(lines[:-1]) + torn)
    assert listing.torn
    assert len(listing.segments) == 2
    assert listing.size == sum(map(len, lines[:-1]))


def listed(folder, n=3):
    run = begin(folder)
    segments = writer(folder)
    for i in range(n):
        put(segments, [i])
        segments.seal()
    run.release()
    return rank_folder(folder, 0)


def test_a_list_that_lost_its_end_is_an_error(tmp_path):
    """Two segments that are not listed cannot be what one process left; the list lacks lines."""
    place = listed(tmp_path)
    path = place / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    with pytest.raises(StoreError, match=r"lacks the segments 00000001, 00000002"):
        Manifest(place)
    path.unlink()
    with pytest.raises(StoreError, match=r"manifest\.jsonl is missing: .* 00000000\.h5 is there"):
        Manifest(place)


def test_a_last_segment_that_is_not_listed_is_said_and_removed(tmp_path):
    place = listed(tmp_path)
    path = place / "manifest.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.warns(UserWarning, match=r"00000002\.h5 is not in the manifest"):
        segments = writer(tmp_path)
    assert sorted(p.name for p in place.glob("*.h5")) == ["00000000.h5", "00000001.h5"]
    put(segments, [7])
    segments.seal()
    assert Manifest(place).segments[-1].file == "00000003.h5"  # no name is used twice


def test_the_list_of_another_run_does_not_count(tmp_path):
    place = listed(tmp_path)
    assert Manifest(place, "another").segments == []
    assert len(Manifest(place).segments) == 3
