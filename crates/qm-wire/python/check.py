#!/usr/bin/env python3
"""Checks every golden vector with the codec in qmwire.py, both ways.

    python3 crates/qm-wire/python/check.py [FOLDER]
"""

import pathlib
import sys
import tomllib
import uuid

import qmhash
import qmwire
from qmwire import Refused


def bytes_of(path):
    return bytes.fromhex(path.read_text())


def read(reader, data):
    """Value, fields, and the value's bytes again."""
    if reader == "envelope":
        value, spans = qmwire.decode_envelope(data)
        return value, spans, qmwire.encode_envelope(value)
    link = "peer" if reader == "open" else reader
    result = qmwire.decode(link, data)
    if result is None:
        return None
    value, spans = result
    if reader == "open":
        qmwire.open_message(value)
    return value, spans, qmwire.encode(link, value) if value["kind"] in qmwire.KINDS else None


def check_fields(fields, spans, data):
    """Both cut the bytes into the same fields, and read the same numbers in them."""
    expected = [(name, bytes.fromhex(raw), meaning) for name, raw, meaning in fields]
    found = [(name, data[start:end], value) for name, start, end, value in spans]
    if [raw for _, raw, _ in expected] != [raw for _, raw, _ in found]:
        for ours, theirs in zip(found, expected):
            if ours[1] != theirs[1]:
                raise AssertionError(f"cut as {ours[0]} {ours[1].hex()}, not {theirs[0]} {theirs[1].hex()}")
        raise AssertionError(f"{len(found)} fields, not {len(expected)}")
    for (name, _, value), (_, _, meaning) in zip(found, expected):
        if isinstance(value, str):
            assert value == meaning, f"{name} is {value!r}, not {meaning!r}"
        elif isinstance(value, int) and (number := number_in(name, meaning)) is not None:
            assert value == number, f"{name} is {value}, not {meaning}"


def number_in(name, meaning):
    """The number that a meaning tells, None for one that is told in words."""
    if name.endswith(("incarnation", "outcome", "report", "checksum")):
        word = meaning.split()[0]
        return 0 if word == "none" else int(word, 16)
    if name.endswith("flags") or name == "ack wishes":
        return int(meaning, 2) if len(meaning) >= 8 else int(meaning)
    if meaning == "infinite":
        return qmwire.INFINITE
    if meaning in ("true", "false"):
        return int(meaning == "true")
    return int(meaning) if meaning.isdigit() else None


def check_valid(toml, data):
    about = tomllib.loads(toml.read_text())
    value, spans, again = read(about["reader"], data)
    if about.get("written", True):
        assert again == data, f"written as {again.hex()}"
        check_fields(about["fields"], spans, data)
    if about["reader"] == "envelope":
        return
    for end in range(len(data)):
        assert read(about["reader"], data[:end]) is None, f"{end} bytes are no frame"
    if value["kind"] == 0x10:
        qmwire.open_message(value)


def check_invalid(toml, data):
    about = tomllib.loads(toml.read_text())
    try:
        result = read(about["reader"], data)
    except Refused as refused:
        assert refused.kind == about["error"], f"{refused}, expected {about['error']}"
    else:
        raise AssertionError(f"accepted as {result}, expected {about['error']}")


def check_siphash():
    """Values from the publication and from the vectors of its authors, for the key 00 01 … 0f."""
    key = bytes(range(16))
    assert qmhash.siphash(key, bytes(range(15)), 8, 2, 4).hex() == "e545be4961ca29a1"
    assert qmhash.siphash(key, b"\0", 16, 2, 4).hex() == "da87c1d86b99af44347659119b22fc45"
    assert qmhash.siphash13(key, b"").hex() == "dcc40f055801acab"


def check_computed(path):
    check_siphash()
    computed = tomllib.loads(path.read_text())
    folder = path.parent
    identity = computed["qm_id"]
    key = bytes.fromhex(identity["public_key"])
    assert qmwire.key_digest(key).hex() == identity["digest"]
    assert str(uuid.UUID(bytes=qmwire.qm_id(key))) == identity["id"]
    envelope = bytes_of(folder / "envelope_full.hex")
    salt = bytes.fromhex(computed["tag"]["salt"])
    tag = qmwire.message_tag(envelope, salt, computed["tag"]["body"].encode())
    assert tag.hex() == computed["tag"]["tag"]
    for length, tag in computed["tags"].items():
        body = bytes(i * 7 % 256 for i in range(int(length)))
        assert qmwire.message_tag(envelope, salt, body).hex() == tag, f"a body of {length} bytes"
    for length, tag in computed["envelope_tags"].items():
        long = bytes(i * 7 % 251 for i in range(int(length)))
        assert qmwire.message_tag(long, bytes(16), b"").hex() == tag, f"an envelope of {length} bytes"
    for salt, tag in computed["salts"].items():
        assert qmwire.message_tag(envelope, bytes.fromhex(salt), b"hello").hex() == tag, f"salt {salt}"
    for count, expected in computed["tag_hashes"].items():
        tags = [bytes([i % 256] * 8) for i in range(int(count))]
        assert qmwire.tag_hash(tags).hex() == expected, f"{count} tags"
    links = computed["links"]
    link = qmwire.first_link(qmwire.qm_id(key), bytes.fromhex(links["stream"]), links["queue"])
    assert link.hex() == links["start"]
    for position, (tag, expected) in enumerate(links["next"], 1):
        link = qmwire.next_link(link, bytes.fromhex(tag), position)
        assert link.hex() == expected, f"position {position}"
    for name, domain in (("claim", b"qm-twin"), ("fork_points", b"qm-fork")):
        body = bytes_of(folder / f"{name}.hex")[16:-64]
        assert (domain + body).hex() == computed["signed"][name], name
    keys = bytes_of(folder / "succession.hex")[16:]
    digests = qmwire.key_digest(keys[:32]) + qmwire.key_digest(keys[32:64])
    assert (b"qm-succession" + digests).hex() == computed["signed"]["succession"]
    body = bytes_of(folder / "parted.hex")[16:-64]
    digests = qmwire.key_digest(body[:32]) + qmwire.key_digest(body[32:64])
    assert (b"qm-parted" + digests + body[192:]).hex() == computed["signed"]["parted"]


def main(folder):
    checks = [(path, check_valid) for path in sorted(folder.glob("*.hex"))]
    checks += [(path, check_invalid) for path in sorted(folder.glob("invalid/*.hex"))]
    wrong = 0
    for path, check in checks:
        try:
            check(path.with_suffix(".toml"), bytes_of(path))
        except Exception as error:  # noqa: BLE001, every fault is told, of whatever kind
            wrong += 1
            print(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    try:
        check_computed(folder / "computed.toml")
    except Exception as error:  # noqa: BLE001
        wrong += 1
        print(f"computed.toml: {type(error).__name__}: {error}")
    print(f"python: {len(checks)} vectors and the computed values, {wrong} wrong")
    return 1 if wrong or len(checks) < 100 else 0


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent
    sys.exit(main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "vectors/v1"))
