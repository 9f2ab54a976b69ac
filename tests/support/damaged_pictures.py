"""Picture files of every kind that is read, and damaged ones made of them: always the same for the same seed."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, features

SIDE = 8


def originals():
    """Whole picture files by name, all of 8x8 pixels, so that nothing compiles anew for them."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    deep = Image.fromarray(rng.integers(0, 65536, (SIDE, SIDE), np.uint16))
    kinds = [
        ("gray.png", colour.convert("L"), {}),
        ("colour.png", colour, dict(exif=exif)),
        ("palette.png", colour.quantize(8), dict(transparency=0)),
        ("alpha.png", colour.convert("RGBA"), {}),
        ("deep.png", deep, {}),
        ("bits.png", colour.convert("1"), {}),
        ("gray.jpg", colour.convert("L"), {}),
        ("colour.jpg", colour, dict(exif=exif, quality=90)),
        ("progressive.jpg", colour, dict(progressive=True)),
        ("cmyk.jpg", colour.convert("CMYK"), {}),
        ("lossy.webp", colour, {}),
        ("lossless.webp", colour.convert("RGBA"), dict(lossless=True, exif=exif)),
        ("plain.tif", colour, {}),
        ("packed.tif", deep, dict(compression="tiff_lzw")),
        ("palette.gif", colour.quantize(8), {}),
        ("colour.bmp", colour, {}),
        ("gray.pgm", colour.convert("L"), {}),
    ]
    if features.check("avif"):
        kinds.append(("colour.avif", colour, {}))
    found = {}
    for name, image, options in kinds:
        file = io.BytesIO()
        image.save(file, Image.registered_extensions()[f".{name.split('.')[1]}"], **options)
        found[name] = file.getvalue()
    return found


def damaged(count, seed=0):
    """So many damaged files as (suffix, content), most of them PNG, JPEG and WebP."""
    rng, whole = np.random.default_rng(seed), originals()
    names = list(whole)
    weights = np.array([4.0 if name.endswith(("png", "jpg", "webp")) else 1.0 for name in names])
    for _ in range(count):
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        content, suffix = whole[name], name.rpartition(".")[2]
        kinds = [flip, cut, splice, repeat] + [edit_chunk] * 3 * (suffix == "png")
        for _ in range(rng.choice([1, 1, 2])):
            change = kinds[rng.integers(len(kinds))]
            content = change(content, rng, whole[names[rng.integers(len(names))]])
        yield suffix, content


def flip(content, rng, other):
    """Some bits turned, the first bytes more often than others: the headers are there."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        reach = len(changed) if rng.random() < 0.8 else min(len(changed), 64)
        if reach:
            changed[rng.integers(reach)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(content, rng, other):
    """The start alone."""
    return content[: rng.integers(len(content) + 1)]


def splice(content, rng, other):
    """The start of one file and the end of another."""
    return content[: rng.integers(len(content) + 1)] + other[rng.integers(len(other) + 1) :]


def repeat(content, rng, other):
    """A part twice, or many times."""
    start, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    return content[:end] + content[start:end] * int(rng.choice([1, 1, 1, 50])) + content[end:]


def edit_chunk(content, rng, other):
    """A PNG with a chunk changed, doubled, removed, renamed or put elsewhere, its checksum right again."""
    parts = chunks(content)
    if not parts:
        return flip(content, rng, other)
    at = int(rng.integers(len(parts)))
    kind, data = parts[at]
    action = rng.integers(5)
    if action == 0:
        parts[at] = (kind, flip(data, rng, other) if data else b"\0" * int(rng.integers(20)))
    elif action == 1:
        parts.insert(int(rng.integers(len(parts) + 1)), (kind, data))
    elif action == 2:
        del parts[at]
    elif action == 3:
        names = [b"zTXt", b"tEXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"gAMA", b"acTL", b"fcTL", b"fdAT"]
        parts.insert(at, (names[rng.integers(len(names))], rng.bytes(int(rng.integers(40)))))
    else:
        size = [b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\x08", b"\0\0\x01\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"]
        if kind == b"IHDR" and len(data) >= 8:
            data = size[rng.integers(len(size))] + size[rng.integers(len(size))] + data[8:]
        parts[at] = (kind, data)
    return png(parts)


def chunks(content):
    """The (type, data) of a PNG as far as they are whole."""
    parts, at = [], 8
    while content[:4] == b"\x89PNG" and at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if at + 12 + length > len(content):
            break
        parts.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def png(parts):
    """A PNG of these chunks, with their checksums."""
    made = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in parts:
        made.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(made)
