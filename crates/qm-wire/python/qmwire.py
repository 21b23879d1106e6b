"""qm's wire format in plain Python, written from SPEC.md alone: the standard library, no other code.

    value, spans = decode("peer", frame)   # None when the frame is not all there
    frame = encode("peer", value)

A value is a dict of the fields; `spans` lists every field as (name, first byte, end, value). Whatever
breaks the specification raises Refused, whose `kind` is one of the errors of section 13.
"""

import hashlib
import unicodedata

from qmhash import blake3, crc32c, siphash13, xxh3_64, xxh3_128

INFINITE = 0xFFFFFFFFFFFFFFFF
MIB = 1 << 20
BODY_MAX = 1 << 30
PROTOCOL = 1


class Refused(Exception):
    def __init__(self, kind, what):
        super().__init__(f"{kind}: {what}")
        self.kind = kind


def need(condition, kind, what):
    if not condition:
        raise Refused(kind, what)


class Cursor:
    """Reads fields off bytes and remembers where each was."""

    def __init__(self, data, at=0):
        self.data, self.at, self.spans = data, at, []

    def left(self):
        return len(self.data) - self.at

    def take(self, n, name):
        need(n <= self.left(), "Truncated", name)
        self.at += n
        return self.data[self.at - n : self.at]

    def field(self, name, n, convert=bytes):
        start = self.at
        value = convert(self.take(n, name))
        self.spans.append((name, start, self.at, value))
        return value

    def number(self, name, size):
        return self.field(name, size, lambda raw: int.from_bytes(raw, "little"))


# Types of fields. `read` takes a cursor, `write` gives bytes; both know their rules.


class U:
    def __init__(self, size, least=0, most=None, allowed=None, kind="Invalid"):
        self.size, self.least, self.most, self.allowed, self.kind = size, least, most, allowed, kind

    def read(self, cursor, name):
        value = cursor.number(name, self.size)
        need(value >= self.least, "Invalid", name)
        need(self.most is None or value <= self.most, self.kind, name)
        need(self.allowed is None or value in self.allowed, "Invalid", name)
        return value

    def write(self, value):
        return value.to_bytes(self.size, "little")


class Mask(U):
    """Bits; any other MUST be refused."""

    def __init__(self, known):
        super().__init__(1)
        self.known = known

    def read(self, cursor, name):
        value = super().read(cursor, name)
        need(value & ~self.known == 0, "Invalid", name)
        return value


class Raw:
    def __init__(self, size):
        self.size = size

    def read(self, cursor, name):
        return cursor.field(name, self.size)

    def write(self, value):
        return value


def as_text(raw, breaks, name):
    try:
        text = raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Refused("Text", name) from None
    for c in text:
        need(unicodedata.category(c) != "Cc" or (breaks and c in "\t\n"), "Text", name)
    return text


def as_queue(raw, name):
    need(len(raw) <= 628, "OverLimit", name)
    try:
        text = raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Refused("Text", name) from None
    for c in text:
        need(unicodedata.category(c) != "Cc", "Text" if c not in "\t\n" else "Invalid", name)
    queue, colon, sub = text.partition(":")
    for part, most in [(queue, 124)] + ([(sub, 32)] if colon else []):
        need(part, "Invalid", name)
        need(len(part) <= most, "OverLimit", name)
        need(not any(c in '/\\@?#"*<>|;,%:' for c in part), "Invalid", name)
        need(part[0] != " " and part[-1] != " ", "Invalid", name)
    return text


class Short:
    """A u16 length and so many bytes: raw, text, a line of text, or a queue name."""

    def __init__(self, limit, form="raw", least=0):
        self.limit, self.form, self.least = limit, form, least

    def read(self, cursor, name):
        n = cursor.number(name + ": length", 2)
        need(n <= self.limit, "OverLimit", name)
        need(n >= self.least, "Invalid", name)
        start = cursor.at
        raw = bytes(cursor.take(n, name))
        if self.form == "raw":
            value = raw
        elif self.form == "queue":
            value = as_queue(raw, name)
        else:
            value = as_text(raw, self.form == "text", name)
        if n:
            cursor.spans.append((name, start, cursor.at, value))
        return value

    def write(self, value):
        raw = value if isinstance(value, bytes) else value.encode()
        return len(raw).to_bytes(2, "little") + raw


class Label(Short):
    def __init__(self):
        super().__init__(996, "text")

    def read(self, cursor, name):
        value = super().read(cursor, name)
        need(len(value) <= 249, "OverLimit", name)
        return value


class Maybe:
    """A bool, then the value if it is 1."""

    def __init__(self, inner):
        self.inner = inner

    def read(self, cursor, name):
        there = BOOL.read(cursor, name + ": present")
        return self.inner.read(cursor, name) if there else None

    def write(self, value):
        return b"\0" if value is None else b"\1" + self.inner.write(value)


class Many:
    """A u16 count, then so many items of fixed size."""

    def __init__(self, least, limit, fields):
        self.least, self.limit, self.fields = least, limit, fields
        self.item_bytes = sum(size_of(kind) for _, kind in fields)

    def read(self, cursor, name):
        n = cursor.number(name, 2)
        need(n <= self.limit, "OverLimit", name)
        need(n * self.item_bytes <= cursor.left(), "Truncated", name)
        need(n >= self.least, "Invalid", name)
        return [read_fields(self.fields, cursor) for _ in range(n)]

    def write(self, value):
        items = b"".join(write_fields(self.fields, item) for item in value)
        return len(value).to_bytes(2, "little") + items


class Properties:
    def read(self, cursor, name):
        n = cursor.number(name + ": length", 2)
        need(n <= 32768, "OverLimit", name)
        inner = Cursor(cursor.data[: cursor.at + n], cursor.at)
        need(n <= cursor.left(), "Truncated", name)
        items, previous = [], None
        while inner.left():
            size = inner.number("property name: length", 1)
            need(size, "Invalid", "property name")
            raw = inner.field("property name", size)
            text = as_text(raw, False, "property name")
            value = Short(32768).read(inner, "property value")
            need(previous is None or previous < raw, "NotCanonical", name)
            previous = raw
            items.append((text, value))
            need(len(items) <= 64, "OverLimit", name)
        cursor.spans += inner.spans
        cursor.at = inner.at
        return items

    def write(self, value):
        out = b""
        for name, item in value:
            raw = name.encode()
            out += bytes([len(raw)]) + raw + Short(32768).write(item)
        return len(out).to_bytes(2, "little") + out


class Rest:
    """To the end of the frame."""

    def __init__(self, limit=None, least=0):
        self.limit, self.least = limit, least

    def read(self, cursor, name):
        n = cursor.left()
        need(self.limit is None or n <= self.limit, "OverLimit", name)
        need(n >= self.least, "Invalid", name)
        if n == 0:
            return b""
        return cursor.field(name, n)

    def write(self, value):
        return value


class Struct:
    def __init__(self, fields):
        self.fields = fields

    def read(self, cursor, _name):
        return read_fields(self.fields, cursor)

    def write(self, value):
        return write_fields(self.fields, value)


class If:
    """A field that is there when a header flag is set."""

    def __init__(self, flag, inner):
        self.flag, self.inner = flag, inner


def size_of(kind):
    if isinstance(kind, Struct):
        return sum(size_of(inner) for _, inner in kind.fields)
    return kind.size


def read_fields(fields, cursor, flags=0):
    value = {}
    for name, kind in fields:
        if isinstance(kind, If):
            if not flags & kind.flag:
                continue
            kind = kind.inner
        value[name] = kind.read(cursor, name)
    return value


def write_fields(fields, value):
    out = b""
    for name, kind in fields:
        if isinstance(kind, If):
            if name not in value:
                continue
            kind = kind.inner
        out += kind.write(value[name])
    return out


U8, U16, U32, U64 = U(1), U(2), U(4), U(8)
BOOL = U(1, allowed=(0, 1))
ONE = U(8, least=1)
ID, TAG = Raw(16), Raw(8)
QUEUE = Short(628, "queue")
TEXT = Short(512, "line")
OUTCOME = U16

ENTRY = [("incarnation", U64), ("sequence", U64), ("tag", TAG)]
RANGE = [("first lookup id", U64), ("last lookup id", U64)]
RANK = [("sealed", BOOL), ("served, s", U64), ("draw", U64)]
COMMIT = Struct([("incarnation of the commit", U64), ("sequence of the commit", U64)])
POINT = [("from", U64), ("mark", ID)]
PLACE = [("stream id", ID), ("position", ONE), ("low", ONE), ("previous link", ID)]
LINK_AT = [("position", ONE), ("link", ID)]

# Section 6, the last fields of the envelope, which put shares.
TEXTS = [
    ("label", Label()),
    ("correlation id", Short(256)),
    ("response queue", Short(1024, "line")),
    ("administration queue", Short(1024, "line")),
    ("content type", Short(255, "line")),
    ("trace context", Short(640, "text")),
    ("properties", Properties()),
]
CLASS, PRIORITY = U(1, allowed=(0, 1, 2)), U(1, most=7)
ENVELOPE = [
    ("envelope version", U(1, allowed=(1,))),
    ("class", CLASS),
    ("priority", PRIORITY),
    ("message flags", Mask(7)),
    ("source", ID),
    ("incarnation", U64),
    ("sequence", U64),
    ("salt", ID),
    ("sent at, us", U64),
    ("time to reach queue, ms", U64),
    ("time to be received, ms", U64),
    ("body length", U(4, most=BODY_MAX, kind="OverLimit")),
    ("ack wishes", Mask(15)),
    ("report", U16),
    ("queue", QUEUE),
] + TEXTS


def check_priority(value):
    """W-ENV-4."""
    need(value["class"] != 2 or value["priority"] == 0, "Invalid", "priority")


def check_envelope(value):
    check_priority(value)
    asks = value["ack wishes"] or value["message flags"] or value["administration queue"]
    need(not (value["report"] and asks), "Invalid", "report")


class Envelope:
    """Behind its length, which the field before it told."""

    def read(self, cursor, length):
        need(length <= cursor.left(), "Truncated", "envelope")
        inner = Cursor(cursor.data[: cursor.at + length], cursor.at)
        raw = bytes(cursor.take(length, "envelope"))
        try:
            read_fields(ENVELOPE, inner)
            cursor.spans += inner.spans
        except Refused:
            cursor.spans.append(("envelope", inner.at, cursor.at, raw))
        return raw


# Checks between fields.


def check_points(value):
    starts = [point["from"] for point in value["points"]]
    need(all(a < b for a, b in zip(starts, starts[1:])), "NotCanonical", "points")


def check_succession(value):
    need(value["old public key"] != value["new public key"], "Invalid", "new public key")


def check_parted(value):
    check_succession(value)
    lives = [life["left incarnation"] for life in value["lives"]]
    need(all(a < b for a, b in zip(lives, lives[1:])), "NotCanonical", "lives")


def check_place(place):
    need(place["low"] <= place["position"], "Invalid", "low")


def check_session_ack(value):
    end = None
    for item in value["ranges"]:
        first, last = item["first number"], item["last number"]
        need(1 <= first <= last, "Invalid", "ranges")
        need(end is None or first >= end + 2, "NotCanonical", "ranges")
        end = last
    need(end - value["ranges"][0]["first number"] < 4096, "OverLimit", "span")


def check_answer(value):
    for item in value["entries"]:
        need(item["answer"] == 4 or item["outcome"] == 0, "Invalid", "outcome")


def check_runs(value):
    for run in value["runs"]:
        need(run["first position"] <= run["last position"], "Invalid", "runs")


def check_wanted(value):
    need(value["answer"] == 1 or value["offset"] == 0, "Invalid", "offset")


def check_part(value):
    need(value["offset"] + len(value["part"]) <= BODY_MAX, "OverLimit", "part")


def check_lookups(key):
    def check(value):
        end = None
        for item in value[key]:
            first, last = item["first lookup id"], item["last lookup id"]
            need(first <= last, "Invalid", key)
            need(end is None or first >= end + 2, "NotCanonical", key)
            end = last

    return check


def check_accepted(value):
    more = value["count"] - 1
    for start in (value["first client sequence"], value["first sequence"]):
        need(start + more <= INFINITE, "Invalid", "count")


def check_fate(value):
    for run in value["runs"]:
        need(1 <= run["first client sequence"] <= run["last client sequence"], "Invalid", "runs")


def check_ended(value):
    committed = value["committed"] is not None
    need(not (committed and value["outcome"] is not None), "Invalid", "outcome")


def entries(*more):
    return Many(1, 4096, ENTRY + list(more))


class Remote:
    """The body of another frame: its kind, then its fields."""

    def __init__(self, kinds):
        self.kinds = kinds

    def read(self, cursor, _name):
        kind = cursor.number("kind", 1)
        need(kind in self.kinds, "Invalid", "kind")
        frame = KINDS[kind]
        value = frame.read_body(cursor, 0)
        return kind, value

    def write(self, value):
        kind, inner = value
        return bytes([kind]) + KINDS[kind].write_body(inner)


class Frame:
    """One kind: its fields, known flags, checks, and whether a message body ends it."""

    def __init__(self, link, fields, check=None, flags=0, message=False, limit=262144):
        self.link, self.fields, self.check = link, fields, check
        self.flags, self.message, self.limit = flags, message, limit

    def read_body(self, cursor, flags):
        value = read_fields(self.fields, cursor, flags)
        if self.check:
            self.check(value)
        if self.message:
            value["body"] = Rest().read(cursor, "body")
        need(cursor.left() == 0, "Trailing", "frame body")
        return value

    def write_body(self, value):
        return write_fields(self.fields, value) + value.get("body", b"")

    def flags_of(self, value):
        return sum(kind.flag for name, kind in self.fields if isinstance(kind, If) and name in value)


class Data(Frame):
    """Data and announce: the envelope's length stands before the optional fields."""

    HEAD = [
        ("message number", ONE),
        ("tag", TAG),
        ("reach queue left, ms", U64),
        ("be received left, ms", U64),
        ("hops", U(1, most=15, kind="OverLimit")),
        ("reserved", U(1, allowed=(0,))),
        ("envelope length", U16),
        ("place", If(1, Struct(PLACE))),
        ("previous hop", If(2, ID)),
        ("final destination", If(2, Short(1024, "line", least=1))),
    ]

    def __init__(self, message):
        super().__init__("peer", self.HEAD, flags=3, message=message)

    def read_body(self, cursor, flags):
        value = read_fields(self.fields, cursor, flags)
        if "place" in value:
            check_place(value["place"])
        value["envelope"] = Envelope().read(cursor, value["envelope length"])
        if self.message:
            value["body"] = Rest().read(cursor, "body")
        need(cursor.left() == 0, "Trailing", "frame body")
        return value

    def write_body(self, value):
        return write_fields(self.fields, value) + value["envelope"] + value.get("body", b"")

    def flags_of(self, value):
        return ("place" in value) | ("previous hop" in value) << 1


class Delivery(Frame):
    HEAD = [
        ("request", U64),
        ("lookup id", U64),
        ("arrived at, us", U64),
        ("abort count", U32),
        ("be received left, ms", U64),
        ("tag", TAG),
        ("envelope: length", U16),
    ]

    def __init__(self):
        super().__init__("node", self.HEAD, message=True)

    def read_body(self, cursor, flags):
        value = read_fields(self.fields, cursor, flags)
        value["envelope"] = Envelope().read(cursor, value["envelope: length"])
        value["body"] = Rest().read(cursor, "body")
        return value

    def write_body(self, value):
        return write_fields(self.fields, value) + value["envelope"] + value["body"]


class Put(Frame):
    HEAD = [
        ("client sequence", ONE),
        ("class", CLASS),
        ("priority", PRIORITY),
        ("message flags", Mask(7)),
        ("ack wishes", Mask(15)),
        ("follow", U(1, allowed=(0, 1, 2))),
        ("time to reach queue, ms", If(1, U64)),
        ("time to be received, ms", If(2, U64)),
        ("idempotency number", If(8, U64)),
        ("idempotency key", If(4, Short(128, least=1))),
        ("transaction", If(16, ONE)),
        ("destination", Short(1024, "line", least=1)),
    ] + TEXTS

    def __init__(self):
        super().__init__("client", self.HEAD, check_priority, flags=31, message=True)

    def read_body(self, cursor, flags):
        need(not flags & 8 or flags & 4, "Invalid", "flags")
        return super().read_body(cursor, flags)


SOURCE = ("source", ID)
END = [("messages", U32), ("outcome", Maybe(OUTCOME)), ("text", TEXT)]
JSON = Rest(MIB)
CHALLENGE = [("attempt", U64), ("challenge", ID)]

KINDS = {
    0x01: Frame(
        "peer",
        [
            ("lowest protocol version", U16),
            ("highest protocol version", U16),
            ("incarnation", U64),
            ("attempt", U64),
            ("listen port", U16),
            ("largest body", U32),
            ("hello flags", Mask(3)),
            ("prior incarnations", Many(0, 256, [("prior incarnation", U64)])),
            ("token", Short(128)),
            ("enrolment token", Short(512)),
            ("node name", Short(255, "line")),
            ("host name", Short(255, "line")),
        ],
    ),
    0x02: Frame(
        "peer",
        [
            ("welcome flags", Mask(3)),
            ("protocol version", U16),
            ("incarnation", U64),
            ("attempt", U64),
            ("session nonce", ID),
            ("store id", ID),
            ("token", Short(128)),
        ],
    ),
    0x03: Frame("peer", [("attempt", U64), ("token", Short(128, least=1))]),
    0x04: Frame("peer", CHALLENGE),
    0x05: Frame("peer", CHALLENGE),
    0x06: Frame("peer", [("messages", U64), ("bytes", U64)]),
    0x07: Frame("peer", [("open", BOOL), ("queue", QUEUE)]),
    0x08: Frame("peer", [("outcome", OUTCOME), ("text", TEXT)]),
    0x09: Frame(
        "peer",
        [
            ("relay", ID),
            ("incarnation", U64),
            ("known for seconds", U64),
            ("address", Short(255, "line")),
            ("host name", Short(255, "line")),
        ],
    ),
    0x0A: Frame("peer", [("relay", ID), ("challenge", Raw(32)), ("rank", Struct(RANK))]),
    0x0B: Frame(
        "peer",
        [
            ("relay", ID),
            ("challenge", Raw(32)),
            ("incarnation", U64),
            ("session nonce", ID),
            ("rank", Struct(RANK)),
            ("asked rank", Struct(RANK)),
            ("points", Many(0, 256, POINT)),
            ("signature", Raw(64)),
        ],
        check_points,
    ),
    0x0C: Frame(
        "peer",
        [("relay", ID), ("challenge", Raw(32)), ("points", Many(1, 256, POINT)), ("signature", Raw(64))],
        check_points,
    ),
    0x0D: Frame(
        "peer",
        [
            ("old public key", Raw(32)),
            ("new public key", Raw(32)),
            ("signature by the old key", Raw(64)),
            ("signature by the new key", Raw(64)),
        ],
        check_succession,
    ),
    0x0E: Frame(
        "peer",
        [
            ("old public key", Raw(32)),
            ("new public key", Raw(32)),
            ("signature by the old key", Raw(64)),
            ("signature by the new key", Raw(64)),
            ("lives", Many(1, 16, [("left incarnation", U64)])),
            ("signature", Raw(64)),
        ],
        check_parted,
    ),
    0x10: Data(message=True),
    0x11: Frame(
        "peer",
        [("place", Struct(PLACE)), ("entry", Struct(ENTRY)), ("outcome", OUTCOME), ("queue", QUEUE)],
        lambda value: check_place(value["place"]),
    ),
    0x12: Data(message=False),
    0x13: Frame(
        "peer",
        [
            ("entry", Struct(ENTRY)),
            ("answer", U(1, allowed=(1, 2, 3))),
            ("offset", U(8, most=BODY_MAX, kind="OverLimit")),
        ],
        check_wanted,
    ),
    0x14: Frame(
        "peer",
        [
            ("entry", Struct(ENTRY)),
            ("offset", U(8, most=BODY_MAX, kind="OverLimit")),
            ("part", Rest(MIB, least=1)),
        ],
        check_part,
        limit=32 + MIB,
    ),
    0x20: Frame(
        "peer",
        [
            ("duplicate", BOOL),
            ("tag hash", U64),
            ("ranges", Many(1, 1024, [("first number", U64), ("last number", U64)])),
        ],
        check_session_ack,
    ),
    0x21: Frame("peer", [SOURCE, ("duplicate", BOOL), ("entries", entries())]),
    0x22: Frame("peer", [SOURCE, ("entries", entries(("ever mine", BOOL)))]),
    0x23: Frame("peer", [SOURCE, ("void", BOOL), ("entries", entries())]),
    0x24: Frame(
        "peer",
        [SOURCE, ("entries", entries(("answer", U(1, allowed=(1, 2, 3, 4))), ("outcome", OUTCOME)))],
        check_answer,
    ),
    0x25: Frame(
        "peer",
        [("refusals", Many(1, 4096, [("message number", ONE), ("tag", TAG), ("outcome", OUTCOME)]))],
    ),
    0x26: Frame(
        "peer",
        [
            ("duplicate", BOOL),
            (
                "runs",
                Many(
                    1,
                    1024,
                    [("stream id", ID), ("first position", ONE), ("last position", U64), ("link", ID)],
                ),
            ),
        ],
        check_runs,
    ),
    0x27: Frame("peer", [("stream id", ID), ("leaves", Many(0, 8, LINK_AT)), ("queue", QUEUE)]),
    0x28: Frame("peer", [("links", Many(1, 4096, [("stream id", ID)] + LINK_AT))]),
    0x29: Frame(
        "peer",
        [
            ("stream id", ID),
            ("position", ONE),
            ("previous link", ID),
            ("outcome", OUTCOME),
            ("text", TEXT),
        ],
    ),
    0x2A: Frame("peer", [SOURCE, ("entries", entries(("outcome", OUTCOME)))]),
    0x2B: Frame("peer", [SOURCE, ("entries", entries())]),
    0x2C: Frame("peer", [SOURCE, ("marks", Many(1, 256, [("incarnation", U64), ("sequence", U64)]))]),
    0x30: Frame("peer", [("channel", U64), ("inside", Remote((0x46, 0x49, 0x4B)))], limit=18 + MIB),
    0x31: Frame("peer", [("channel", U64), ("inside", Remote((0x47, 0x48, 0x4A, 0x4C)))]),
    0x40: Frame(
        "client", [("protocol version", U16), ("client id", ID), ("program", Short(255, "line"))]
    ),
    0x41: Frame(
        "node",
        [
            ("protocol version", U16),
            ("node", ID),
            ("incarnation", U64),
            ("largest body", U32),
            ("window in messages", U(4, least=1)),
            ("window in bytes", U32),
            ("node name", Short(255, "line")),
        ],
    ),
    0x42: Put(),
    0x43: Frame(
        "node",
        [
            ("first client sequence", ONE),
            ("count", U(4, least=1)),
            ("first incarnation", U64),
            ("first sequence", U64),
            ("repeated", BOOL),
        ],
        check_accepted,
    ),
    0x44: Frame("node", [("client sequence", ONE), ("outcome", OUTCOME), ("text", TEXT)]),
    0x45: Frame(
        "node",
        [
            (
                "runs",
                Many(
                    1,
                    4096,
                    [
                        ("first client sequence", U64),
                        ("last client sequence", U64),
                        ("outcome", OUTCOME),
                    ],
                ),
            )
        ],
        check_fate,
    ),
    0x46: Frame(
        "client",
        [
            ("request", U64),
            ("mode", U(1, allowed=(0, 1))),
            ("most messages", U(4, least=1)),
            ("most bytes", U32),
            ("wait, ms", U64),
            ("after lookup id", Maybe(U64)),
            ("lookup id", Maybe(U64)),
            ("queue", QUEUE),
            ("correlation id", Short(256)),
            ("transaction", If(1, ONE)),
        ],
        flags=1,
    ),
    0x47: Delivery(),
    0x48: Frame("node", [("request", U64)] + END),
    0x49: Frame(
        "client",
        [
            ("request", U64),
            ("verdict", U(1, allowed=(0, 1, 2))),
            ("queue", QUEUE),
            ("ranges", Many(1, 1024, RANGE)),
        ],
        check_lookups("ranges"),
    ),
    0x4A: Frame(
        "node",
        [("request", U64)] + END + [("lost ranges", Many(0, 1024, RANGE))],
        check_lookups("lost ranges"),
    ),
    0x4B: Frame("client", [("request", U64), ("JSON", JSON)], limit=9 + MIB),
    0x4C: Frame("node", [("request", U64), ("ok", BOOL), ("JSON", JSON)], limit=9 + MIB),
    0x4D: Frame(
        "client",
        [("client sequence", ONE), ("transaction", ONE), ("verdict", U(1, allowed=(0, 1)))],
    ),
    0x4E: Frame(
        "node",
        [
            ("client sequence", ONE),
            ("transaction", ONE),
            ("committed", Maybe(COMMIT)),
            ("repeated", BOOL),
            ("outcome", Maybe(OUTCOME)),
            ("text", TEXT),
        ],
        check_ended,
    ),
}


def limit_of(kind, message_limit):
    """W-FRM-4."""
    if kind in (0x10, 0x42, 0x47):
        return message_limit
    if kind == 0x31:
        return max(18 + MIB, message_limit)
    return KINDS[kind].limit if kind in KINDS else 262144


def decode(link, data, message_limit=MIB):
    """The frame at the front of `data`, and its fields; None when it is not all there."""
    for at, byte in enumerate(b"QM\x01"):
        if len(data) <= at:
            return None
        need(data[at] == byte, "Invalid", "magic or header version")
    if len(data) < 16:
        return None
    cursor = Cursor(data)
    for name, size in (("magic", 2), ("header version", 1)):
        cursor.field(name, size)
    kind = cursor.number("kind", 1)
    flags = cursor.number("flags", 2)
    need(cursor.number("reserved", 2) == 0, "Invalid", "reserved")
    length = cursor.number("length", 4)
    checksum = cursor.number("checksum", 4)
    need(length <= limit_of(kind, message_limit), "OverLimit", "length")
    if len(data) < 16 + length:
        return None
    cursor.data = data[: 16 + length]
    frame = KINDS.get(kind)
    if frame is None and kind >= 0x80:
        need(crc32c(data[:12] + data[16 : 16 + length]) == checksum, "Checksum", "frame")
        return {"kind": kind}, cursor.spans
    need(frame is not None and frame.link == link, "UnknownKind", kind)
    covered = length
    if frame.message:
        # What stands before the message body is only known once it is read.
        covered -= message_body_bytes(frame, cursor, flags)
    need(crc32c(data[:12] + data[16 : 16 + covered]) == checksum, "Checksum", "frame")
    need(flags & ~(frame.flags | 0xFF00) == 0, "Invalid", "flags")
    if kind == 0x01 and length >= 4:
        # W-VER-1, W-VER-6: what stands there in every version is looked at before the rest.
        lowest, highest = (int.from_bytes(data[at : at + 2], "little") for at in (16, 18))
        need(lowest <= highest, "Invalid", "protocol versions")
        need(lowest == PROTOCOL, "Version", f"{lowest} to {highest}")
    value = frame.read_body(cursor, flags)
    value["kind"] = kind
    return value, cursor.spans


def message_body_bytes(frame, cursor, flags):
    """The bytes of the message body, without the rules that come after the checksum."""
    probe = Cursor(cursor.data, cursor.at)
    if isinstance(frame, Data):
        probe.take(34, "data")
        envelope = probe.number("envelope length", 2)
        probe.take(48 if flags & 1 else 0, "place")
        if flags & 2:
            probe.take(16, "previous hop")
            probe.take(probe.number("final destination: length", 2), "final destination")
        probe.take(envelope, "envelope")
    elif isinstance(frame, Delivery):
        probe.take(44, "delivery")
        probe.take(probe.number("envelope: length", 2), "envelope")
    else:
        probe.take(13, "put")
        probe.take(sum(8 for bit in (1, 2, 8) if flags & bit), "times and number")
        if flags & 4:
            probe.take(probe.number("idempotency key: length", 2), "idempotency key")
        probe.take(8 if flags & 16 else 0, "transaction")
        for name in ("destination", *(name for name, _ in TEXTS)):
            probe.take(probe.number(name + ": length", 2), name)
    return probe.left()


def encode(_link, value):
    kind = value["kind"]
    frame = KINDS[kind]
    body = frame.write_body(value)
    covered = body[: len(body) - len(value["body"])] if frame.message else body
    head = b"QM\x01" + bytes([kind]) + frame.flags_of(value).to_bytes(2, "little") + b"\0\0"
    head += len(body).to_bytes(4, "little")
    return head + crc32c(head + covered).to_bytes(4, "little") + body


def decode_envelope(data):
    need(len(data) <= 65535, "OverLimit", "envelope")
    cursor = Cursor(data)
    value = read_fields(ENVELOPE, cursor)
    need(cursor.left() == 0, "Trailing", "envelope")
    check_envelope(value)
    return value, cursor.spans


def encode_envelope(value):
    return write_fields(ENVELOPE, value)


def open_message(value):
    """The envelope of a data frame, its tag and length compared (W-TAG-2, W-DAT-5)."""
    envelope, _ = decode_envelope(value["envelope"])
    tag = message_tag(value["envelope"], envelope["salt"], value["body"])
    whole = envelope["body length"] == len(value["body"]) and tag == value["tag"]
    need(whole, "Damaged", "message")
    need("place" not in value or envelope["class"] == 2, "Invalid", "class of a linked message")
    return envelope


# Computed values.


def message_tag(envelope, salt, body):
    """W-TAG-1."""
    seed = int.from_bytes(salt[:8], "little")
    length = len(body).to_bytes(8, "little")
    return siphash13(salt, length + xxh3_128(body, seed) + envelope)


def tag_hash(tags):
    """W-TAG-3."""
    return xxh3_64(b"".join(tags)).to_bytes(8, "little")


def key_digest(public_key):
    """W-ID-1."""
    prefix = bytes.fromhex("302a300506032b6570032100")
    return hashlib.sha256(b"qm-id-v1" + prefix + public_key).digest()


def qm_id(public_key):
    """W-ID-1."""
    raw = bytearray(key_digest(public_key)[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def first_link(sender, stream, queue):
    """W-STR-2."""
    folded = "".join(c.lower() for c in queue)
    return blake3(b"qm-stream" + sender + stream + folded.encode())[:16]


def next_link(previous, tag, position):
    """W-STR-2."""
    return siphash13(previous, tag + position.to_bytes(8, "little"), 16)
