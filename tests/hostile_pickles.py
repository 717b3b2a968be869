"""Pickles that no writer of checkpoints makes: they ask for memory, for time, or to be run."""

import pickle
import struct
from collections.abc import Iterator
from itertools import islice, product

MEBI = 1 << 20


def _nested(times: int) -> bytes:
    return b")" + b"\x85" * times


def _colliding(count: int) -> Iterator[bytes]:
    """Give tuples whose hashes are all the same: -1 and -2 have one."""
    ints = (b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff")
    for values in islice(product(ints, repeat=17), count):
        yield b"(" + b"".join(values) + b"t"


PICKLES = {
    "E-S1 long_binput": b"\x80\x02Nr\x00\xe1\xf5\x05.",
    "E-S1 long_binput, the last index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "put as text": b"Np2000000000\n.",
    "memoize, over and over": b"\x80\x04N" + b"\x94" * (8 * MEBI) + b".",
    "E-S1 a key of nested tuples": b"\x80\x02}" + _nested(2_000_000) + b"Ns.",
    "nested tuples": b"\x80\x02" + _nested(2_000_000) + b".",
    "nested lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "nested dicts": b"\x80\x02" + b"}N" * 1_000_000 + b"N" + b"s" * 1_000_000 + b".",
    "a member of nested frozensets": b"\x80\x04\x8f(" + b"(" * 500_000 + b"\x91" * 500_000 + b"\x90.",
    "a key whose hash doubles, by the memo": b"\x80\x04})\x94" + b"h\x00h\x00\x86q\x00" * 64 + b"Ns.",
    "text of 2^62": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "bytes of 2^40": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.",
    "a bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
    "a bytearray of 2^33": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"a.",
    "text of 2^32": b"\x80\x02X\xff\xff\xff\xffa.",
    "a number of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "a frame of 2^40": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "a number of a million digits": b"\x80\x02I" + b"9" * 1_000_000 + b"\n.",
    "a number of a million bytes": b"\x80\x02\x8b" + struct.pack("<i", MEBI) + b"\x7f" * MEBI + b".",
    "lists, over and over": b"\x80\x02(" + b"]" * (4 * MEBI) + b"l.",
    "E-S1 os.system": b"cos\nsystem\n(X\x04\x00\x00\x00truetR.",
    "eval": b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
    "a class of torch that runs": b"ctorch\nload\n(X\x01\x00\x00\x001tR.",
    "an extension": b"\x80\x02\x82\x01.",
    "nothing": b".",
    "cut off": b"\x80\x04\x95.",
    "something else": pickle.dumps({"a": 1}),
}
"""Each is the whole of a `.metadata`."""
SLOW_PICKLES = {
    "a key whose hash doubles": b"\x80\x02})" + b"2\x86" * 64 + b"Ns.",
    "keys that collide": b"\x80\x02}(" + b"N".join(_colliding(40_000)) + b"Nu.",
    "members that collide": b"\x80\x04\x8f(" + b"".join(_colliding(40_000)) + b"\x90.",
}
"""Likewise; each takes the 2 s of a processor that its reader has."""

BOMBS = {
    "E-S1 an index": b"\x80\x02]q\x00r\x00\xe1\xf5\x05.",
    "a key of nested tuples": b"\x80\x02}q\x00" + _nested(1_000_000) + b"Ns.",
    "a bytearray of 8 GiB": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R.",
}
"""Each is the pickle of an object in a container of torch.save's."""
SLOW_BOMBS = {
    "a key whose hash doubles": b"\x80\x02}q\x00)" + b"q\x01h\x01h\x01\x86" * 64 + b"Ns.",
    "keys that collide": b"\x80\x02}q\x00(" + b"N".join(_colliding(40_000)) + b"Nu.",
    "a codec that takes the square": (
        b"\x80\x02c_codecs\nencode\nX"
        + struct.pack("<I", 6 * MEBI)
        + "".join(map(chr, range(0x800, 0x800 + 0x2000))).encode() * 256
        + b"X\x08\x00\x00\x00punycode\x86R."
    ),
}
"""Likewise; each takes the 2 s. That every way of reading leads to that reader, BOMBS show."""
