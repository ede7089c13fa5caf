"""What a hostile or broken peer may send, from a seed: the same seed gives the same bytes.

A usual conversation is made first, then some of it is damaged: bytes changed, cut out, put in or repeated, lengths
that lie, PDUs in the wrong place or twice, UIDs that are paths.
"""

import random
import struct
import zlib

from arranging_receiver import (
    CT,
    EXPLICIT,
    PRIVATE_CLASS,
    VERIFICATION,
    association_request,
    echo_command,
    element,
    p_data,
    pdv,
    store_command,
)

DEFLATED, IMPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
RELEASE, ABORT = struct.pack(">BBII", 5, 0, 4, 0), struct.pack(">BBII", 7, 0, 4, 0)
EVIL_UIDS = [
    "../../../../tmp/evil",
    "/etc/passwd",
    "..",
    ".",
    "1.2\\3",
    "a" * 70,
    "1.2.3\0.dcm",
    "\x1b[2J",
    "ü.1",
    "",
]
LENGTHS = [0, 1, 2, 5, 2**15, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
_SLOW = 0.02
"""Share of conversations whose peer neither closes nor goes on: it is the server that has to."""


def damaged(data: bytes, chance: random.Random, most: int = 8) -> bytes:
    """`data` with some bytes changed, cut out, put in, repeated, or replaced by a length that lies."""
    now = bytearray(data)
    for _ in range(chance.randrange(1, most)):
        if not now:
            break
        at = chance.randrange(len(now))
        match chance.randrange(6):
            case 0:
                now[at] = chance.randrange(256)
            case 1:
                now[at] ^= 1 << chance.randrange(8)
            case 2:
                del now[at : at + chance.randrange(1, 30)]
            case 3:
                now[at:at] = chance.randbytes(chance.randrange(1, 30))
            case 4:
                form = chance.choice([">I", "<I", ">H", "<H"])
                value = chance.choice(LENGTHS)
                lie = struct.pack(form, value if form[1] == "I" else value & 0xFFFF)
                now[at : at + len(lie)] = lie
            case _:
                now[at:at] = now[at : at + chance.randrange(1, 60)]
    return bytes(now)


def conversation(chance: random.Random) -> list[bytes]:
    """A usual association, PDU by PDU, of one of several kinds; not yet damaged."""
    contexts = [(CT, [EXPLICIT]), (VERIFICATION, [EXPLICIT])]
    if chance.random() < 0.3:
        contexts += [(FIND, [EXPLICIT, IMPLICIT]), (PRIVATE_CLASS, [DEFLATED, EXPLICIT])]
    if chance.random() < 0.05:
        contexts += [(CT, [EXPLICIT, IMPLICIT, DEFLATED])] * 100
    roles = {CT: (True, True), FIND: (False, True)} if chance.random() < 0.2 else None
    pdus = [association_request(contexts, max_pdu=chance.choice([0, 7, 128, 16384, 2**32 - 1]), roles=roles)]
    uid = chance.choice([*EVIL_UIDS, "1.2.3", "1.2.4"])
    for _ in range(chance.randrange(1, 4)):
        match chance.randrange(4):
            case 0:
                pdus.append(p_data(pdv(3, 3, echo_command())))
            case 1:
                pdus += [
                    p_data(pdv(1, 3, store_command(uid))),
                    p_data(pdv(1, 0, b"data" * 50), pdv(1, 0, b"")),
                    p_data(pdv(1, 2, b"more" * chance.randrange(500))),
                ]
            case 2:
                pdus.append(p_data(pdv(1, 3, store_command(uid)), pdv(1, 2, b"x" * chance.randrange(100))))
            case _:
                body = element(0x0002, FIND.encode()) + element(0x0100, b"\x20\0") + element(0x0110, b"\1\0")
                body += element(0x0700, b"\0\0") + element(0x0800, b"\0\0")
                command = element(0, struct.pack("<I", len(body))) + body
                pdus += [p_data(pdv(5, 3, command)), p_data(pdv(5, 2, b"\x08\0\x52\0CS\x06\0STUDY "))]
    pdus.append(chance.choice([RELEASE, ABORT]))
    return pdus


def hostile_conversation(chance: random.Random) -> tuple[list[bytes], int]:
    """PDUs to be sent one after another, and how many of them are not what they should be."""
    pdus = conversation(chance)
    kind = chance.random()
    if kind < 0.4:  # the request
        pdus[0] = damaged(pdus[0], chance)
        return pdus, 1
    if kind < 0.8:  # what follows it
        number = chance.randrange(1, len(pdus)) if len(pdus) > 1 else 0
        broken = range(number, min(number + chance.randrange(1, 4), len(pdus)))
        for at in broken:
            pdus[at] = damaged(pdus[at], chance, most=5)
        return pdus, len(broken)
    if kind < 0.9:  # out of place, twice, or left out
        chance.shuffle(pdus)
        return pdus[: chance.randrange(1, len(pdus) + 1)] + pdus[-1:] * chance.randrange(3), 1
    if kind < 0.95:  # a head that lies, and noise
        return [
            *pdus[: chance.randrange(2)],
            struct.pack(">BBI", chance.randrange(256), 0, chance.choice(LENGTHS)) + chance.randbytes(200),
        ], 1
    return [chance.randbytes(chance.randrange(1, 2000))], 1


def usual_dataset(chance: random.Random, uid: str) -> bytes:
    """A small CT, explicit little endian, with a sequence and a private element in it."""

    def put(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        value += b" " * (len(value) % 2)
        if vr in {b"OW", b"SQ", b"UN", b"UT"}:
            return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    item = put(0x0008, 0x1150, b"UI", CT.encode()) + put(0x0008, 0x1155, b"UI", b"1.2.9")
    study = str(chance.randrange(5)).encode()
    parts = [
        put(
            0x0008, 0x0005, b"CS", chance.choice([b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"NONE"])
        ),
        put(0x0008, 0x0016, b"UI", CT.encode()),
        put(0x0008, 0x0018, b"UI", uid.encode("utf-8")),
        put(0x0008, 0x0020, b"DA", b"20260101"),
        put(0x0008, 0x0060, b"CS", b"CT"),
        put(0x0008, 0x1140, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item),
        put(0x0009, 0x0010, b"LO", b"PRIVATE"),
        put(0x0010, 0x0010, b"PN", b"Test^Fuzz"),
        put(0x0010, 0x0020, b"LO", b"ID1"),
        put(0x0020, 0x000D, b"UI", b"1.2.826.0.1.3680043.10.77." + study),
        put(0x0020, 0x000E, b"UI", b"1.2.826.0.1.3680043.10.77." + study + b".1"),
        put(0x0028, 0x0010, b"US", struct.pack("<H", 16)),
        put(0x7FE0, 0x0010, b"OW", chance.randbytes(512)),
    ]
    return b"".join(parts)


def hostile_dataset(chance: random.Random, uid: str) -> tuple[str, bytes]:
    """A transfer syntax and a data set that is not what it should be in it."""
    dataset = usual_dataset(chance, uid)
    match chance.randrange(8):
        case 0:
            return EXPLICIT, dataset[: chance.randrange(len(dataset))]
        case 1:  # sequences in each other without end
            begin = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
            return EXPLICIT, dataset[:200] + begin * chance.choice([10, 500, 5000]) + dataset[200:]
        case 2:
            return IMPLICIT, damaged(dataset, chance)
        case 3:
            pack = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
            bomb = pack.compress(dataset + bytes(chance.choice([0, 2**20, 2**25]))) + pack.flush()
            return DEFLATED, damaged(bomb, chance, most=2) if chance.random() < 0.7 else bomb
        case 4:
            return EXPLICIT, chance.randbytes(chance.randrange(1, 3000))
        case _:
            return EXPLICIT, damaged(dataset, chance, most=chance.choice([2, 5, 30]))
