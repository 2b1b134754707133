"""New rows scored by a text tower: streamed in and out, by several processes, resumable."""
