"""TensorBoard's event files, written without TensorFlow from rows of metrics and pictures.

A file is a sequence of records (length, its checksum, bytes, their checksum), each an `Event`; the layout is TensorFlow's
TFRecord, messages and checksum are tensorboardX's. Its bytes depend on the rows alone, without a clock: a step counts as
a second. So a resumed run writes the same bytes again, and TensorBoard shows no curve twice.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# TensorBoard reads files whose name contains this.
NAME = "events.out.tfevents"


class Picture(NamedTuple):
    """A PNG file, the step that it belongs to, and its tag."""

    step: int
    tag: str
    path: Path


def write(
    path: str | os.PathLike,
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture] = (),
    after: int | None = None,
) -> None:
    """Write rows, each {"step": ..., tag: number, ...}, and pictures, in the order of their steps.

    after: append only what is later than this step; None writes the file anew. Raises OSError.
    """
    entries = [(row["step"], 0, row) for row in rows] + [(each.step, 1, each) for each in pictures]
    due = [entry for step, _, entry in sorted(entries, key=lambda each: each[:2]) if after is None or step > after]
    try:
        # In place and not by a new file of that name: TensorBoard keeps the old one open.
        with Path(path).open("wb" if after is None else "ab") as file:
            file.writelines(_records(due, begin=after is None))
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def _records(entries: Sequence[Any], begin: bool) -> Iterator[bytes]:
    from tensorboardX.proto.event_pb2 import Event  # slow to import, and only needed here
    from tensorboardX.proto.summary_pb2 import Summary

    if begin:
        yield _record(Event(file_version="brain.Event:2"))
    for each in entries:
        step = each.step if isinstance(each, Picture) else each["step"]
        values = [_picture(Summary, each)] if isinstance(each, Picture) else _numbers(Summary, each)
        yield _record(Event(wall_time=step, step=step, summary=Summary(value=values)))


def _numbers(Summary, row):
    return [Summary.Value(tag=tag, simple_value=value) for tag, value in row.items() if tag != "step"]


def _picture(Summary, picture):
    from PIL import Image

    with Image.open(picture.path) as found:
        size = {"width": found.width, "height": found.height, "colorspace": len(found.getbands())}
    encoded = picture.path.read_bytes()
    return Summary.Value(tag=picture.tag, image=Summary.Image(encoded_image_string=encoded, **size))


def _record(event):
    from tensorboardX.record_writer import masked_crc32c

    content = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checksums) + content + next(checksums)
