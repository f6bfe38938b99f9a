"""Clips to even chunks and back in a graph: what `WhisperSerEncoder.forward` does around its layers."""

from typing import NamedTuple

from whisper_ser.inference.engines.nodes import Nodes

FRAMES_PER_PASS = 8000
"""Encoder frames run at a time: memory is bounded however long the audio is."""


class Chunks(NamedTuple):
    """How the clips of a batch are cut, as names in a graph. Sizes are `(1,)`, all are counted in encoder frames.

    Attributes:
        frames: of each clip `(batch,)`.
        size, larger: of the chunks of each clip the first `larger` have `size + 1` frames, the others `size`.
        first: the number of the first chunk of each clip `(batch,)`.
        owner: the clip of each chunk `(passes * per_pass,)`, as are the next two.
        start: where the chunk begins in its clip.
        length: its frames; 0 for those that only fill up the last pass.
        longest: the most frames of a chunk.
        passes, per_pass: how many passes, and chunks in each.
    """

    frames: str
    size: str
    larger: str
    first: str
    owner: str
    start: str
    length: str
    longest: str
    passes: str
    per_pass: str


def cut(nodes: Nodes, frames: str, longest: int) -> Chunks:
    """Cuts clips of `frames` `(batch,)` into the fewest chunks of at most `longest`; sizes differ by one at most."""
    # A clip without samples gets an answer without meaning; a division by zero would end the whole process.
    count = nodes.op("Max", nodes.divided_up(frames, longest), 1)
    size = nodes.op("Div", frames, count)
    larger = nodes.op("Sub", frames, nodes.op("Mul", size, count))
    most = nodes.op("ReduceMax", nodes.divided_up(frames, count), axes=[0], keepdims=1)
    total = nodes.op("ReduceSum", count, [0], keepdims=1)
    fitting = nodes.op("Max", nodes.op("Div", [FRAMES_PER_PASS], most), [1])
    passes = nodes.divided_up(total, fitting)
    per_pass = nodes.divided_up(total, passes)
    number = nodes.count_to(nodes.op("Mul", passes, per_pass))
    ends = nodes.op("CumSum", count, 0)
    first = nodes.op("Sub", ends, count)
    behind = nodes.op(
        "GreaterOrEqual", nodes.op("Unsqueeze", number, [1]), nodes.op("Unsqueeze", ends, [0])
    )  # (chunks, batch)
    owner = nodes.op("ReduceSum", nodes.op("Cast", behind, to=7), [1], keepdims=0)
    owner = nodes.op("Min", owner, nodes.op("Sub", nodes.size(frames, 0), 1))
    position = nodes.op("Sub", number, nodes.op("Gather", first, owner))
    my_size, my_larger = nodes.op("Gather", size, owner), nodes.op("Gather", larger, owner)
    start = nodes.op("Add", nodes.op("Mul", position, my_size), nodes.op("Min", position, my_larger))
    length = nodes.op("Add", my_size, nodes.op("Cast", nodes.op("Less", position, my_larger), to=7))
    length = nodes.op("Where", nodes.op("Less", number, total), length, 0)
    return Chunks(frames, size, larger, first, owner, start, length, most, passes, per_pass)


def mel_chunks(nodes: Nodes, number: str, mels: str, mel_frames: str, chunks: Chunks) -> tuple[str, str, str]:
    """Returns the log-mel of the chunks of pass `number` `(1,)`.

    Args:
        mels: `(batch, mel_frames, channels)`.
        mel_frames: real ones of each clip `(batch,)`.

    Returns:
        Log-mel `(chunks, 2 * longest + 2, channels)`, zeros before and behind a chunk; which of its rows, the first
        and the last left out, are real `(chunks, 2 * longest, 1)`; and the frames of each chunk `(chunks,)`.
    """
    begin = nodes.op("Mul", number, chunks.per_pass)
    end = nodes.op("Add", begin, chunks.per_pass)
    owner, start, length = (nodes.cut(x, begin, end, axis=0) for x in (chunks.owner, chunks.start, chunks.length))
    start = nodes.op("Mul", start, 2)
    # The last chunk of an odd number of mel frames ends within an encoder frame.
    left = nodes.op("Sub", nodes.op("Gather", mel_frames, owner), start)
    real = nodes.op("Unsqueeze", nodes.op("Min", nodes.op("Mul", length, 2), left), [1])
    row = nodes.op("Sub", nodes.count_to(nodes.op("Add", nodes.op("Mul", chunks.longest, 2), 2)), 1)
    inside = nodes.op("And", nodes.op("GreaterOrEqual", row, 0), nodes.op("Less", row, real))
    inside = nodes.op("Unsqueeze", nodes.op("Cast", inside, to=1), [2])
    rows = nodes.size(mels, 1)
    index = nodes.op("Add", nodes.op("Unsqueeze", start, [1]), row)
    index = nodes.op("Max", nodes.op("Min", index, nodes.op("Sub", rows, 1)), 0)
    index = nodes.op("Add", index, nodes.op("Unsqueeze", nodes.op("Mul", owner, rows), [1]))
    flat = nodes.op("Reshape", mels, nodes.shape(-1, nodes.size(mels, 2)))
    return nodes.op("Mul", nodes.op("Gather", flat, index), inside), nodes.cut(inside, 1, -1, axis=1), length


def joined(nodes: Nodes, rows: str, chunks: Chunks) -> str:
    """Returns the frames of each clip `(batch, frames, width)` of those of all chunks `(all * longest, width)`.

    Behind a shorter clip its last frame is repeated.
    """
    frame = nodes.count_to(nodes.op("ReduceMax", chunks.frames, axes=[0], keepdims=1))
    size, larger, first, frames = (
        nodes.op("Unsqueeze", x, [1]) for x in (chunks.size, chunks.larger, chunks.first, chunks.frames)
    )
    frame = nodes.op("Min", frame, nodes.op("Sub", frames, 1))
    in_larger = nodes.op("Mul", larger, nodes.op("Add", size, 1))
    early = nodes.op("Less", frame, in_larger)
    step = nodes.op("Where", early, nodes.op("Add", size, 1), nodes.op("Max", size, 1))
    origin = nodes.op("Where", early, 0, in_larger)
    since = nodes.op("Sub", frame, origin)
    chunk = nodes.op("Add", nodes.op("Div", since, step), nodes.op("Where", early, 0, larger))
    within = nodes.op("Sub", since, nodes.op("Mul", nodes.op("Div", since, step), step))
    index = nodes.op("Add", nodes.op("Mul", nodes.op("Add", first, chunk), chunks.longest), within)
    return nodes.op("Gather", rows, index)
