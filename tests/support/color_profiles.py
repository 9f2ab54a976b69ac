"""Colour profiles (ICC) in closed form, and what they say."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
SRGB = np.array([[0.436066, 0.385147, 0.143066], [0.222488, 0.716873, 0.060608], [0.013916, 0.097076, 0.714096]])
DISPLAY_P3 = np.array([[0.515102, 0.291965, 0.157153], [0.241182, 0.692236, 0.066582], [-0.00105, 0.041882, 0.784378]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
"""XYZ, adapted to D50, of red, green and blue (columns)."""

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""g, a, b, c, d of v -> (a v + b)^g, or c v below d."""


def profile(curve, colorants=None):
    """A profile of colours, or of gray without colorants, with one curve for all channels: a gamma, or SRGB_CURVE."""
    parameters = np.ravel(curve).tolist()
    trc = b"para" + bytes(4) + struct.pack(">HH", 3 if len(parameters) > 1 else 0, 0) + fixed(*parameters)
    tags = {b"wtpt": xyz(D50), b"desc": text("a profile"), b"cprt": text("none")}
    if colorants is None:
        tags |= {b"kTRC": trc}
    else:
        tags |= {b"rXYZ": xyz(colorants[:, 0]), b"gXYZ": xyz(colorants[:, 1]), b"bXYZ": xyz(colorants[:, 2])}
        tags |= {b"rTRC": trc, b"gTRC": trc, b"bTRC": trc}
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    space = b"GRAY" if colorants is None else b"RGB "
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(data), bytes(4), 0x04200000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"
    )
    head = head.ljust(68, b"\0") + fixed(*D50)
    return head.ljust(128, b"\0") + table + data


def in_srgb(pixels, curve, colorants=SRGB):
    """Bytes with the colours of such a profile as bytes in sRGB, by the definition of sRGB (IEC 61966-2-1)."""
    v = pixels / 255
    g, a, b, c, d = curve if np.ndim(curve) else (curve, 1, 0, 0, 0)
    linear = np.where(v >= d, (a * v + b) ** g, c * v)
    if pixels.shape[-1:] == (3,):
        linear = linear @ (np.linalg.inv(SRGB) @ colorants).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def xyz(values):
    return b"XYZ " + bytes(4) + fixed(*values)


def text(content):
    encoded = content.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded
