"""The hash functions that SPEC.md names, in plain Python: CRC32C (RFC 3720), BLAKE3, SipHash, XXH3.

Slow and short on purpose: an oracle for the vectors, not for traffic.
"""

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def crc32c(data, crc=0):
    crc ^= M32
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ M32


# BLAKE3, hash mode (https://github.com/BLAKE3-team/BLAKE3-specs).

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def _rotr32(x, n):
    return (x >> n | x << (32 - n)) & M32


def _compress(chaining, block, counter, length, flags):
    state = [*chaining, *IV[:4], counter & M32, counter >> 32, length, flags]
    for _ in range(7):
        words = iter(block)
        for a, b, c, d in COLUMNS + DIAGONALS:
            for turn_d, turn_b in ((16, 12), (8, 7)):
                state[a] = (state[a] + state[b] + next(words)) & M32
                state[d] = _rotr32(state[d] ^ state[a], turn_d)
                state[c] = (state[c] + state[d]) & M32
                state[b] = _rotr32(state[b] ^ state[c], turn_b)
        block = [block[i] for i in PERMUTATION]
    return [state[i] ^ state[i + 8] for i in range(8)]


def _words(block):
    block = block.ljust(64, b"\0")
    return [int.from_bytes(block[i : i + 4], "little") for i in range(0, 64, 4)]


def _chunk(data, counter, root):
    chaining = list(IV)
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        flags = (CHUNK_START if i == 0 else 0) | ((CHUNK_END | root) if i == len(blocks) - 1 else 0)
        chaining = _compress(chaining, _words(block), counter, len(block), flags)
    return chaining


def _tree(data, counter, root):
    chunks = -(-len(data) // 1024)
    if chunks <= 1:
        return _chunk(data, counter, root)
    left = 1 << ((chunks - 1).bit_length() - 1)
    block = _tree(data[: left * 1024], counter, 0) + _tree(data[left * 1024 :], counter + left, 0)
    return _compress(IV, block, 0, 64, PARENT | root)


def blake3(data):
    """The first 32 bytes."""
    return b"".join(word.to_bytes(4, "little") for word in _tree(data, 0, ROOT))


# SipHash (https://github.com/veorq/SipHash).


def siphash(key, data, size, word_rounds, last_rounds):
    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    for i in range(4):
        v[i] ^= _u64(key, i % 2 * 8)
    v[1] ^= 0xEE if size == 16 else 0

    def rounds(count):
        for _ in range(count):
            for a, b, c, d, turn_b, turn_d in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
                v[a] = (v[a] + v[b]) & M64
                v[c] = (v[c] + v[d]) & M64
                v[b] = _rotl64(v[b], turn_b) ^ v[a]
                v[d] = _rotl64(v[d], turn_d) ^ v[c]
                v[a] = _rotl64(v[a], 32)

    whole = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, len(whole), 8):
        v[3] ^= _u64(whole, at)
        rounds(word_rounds)
        v[0] ^= _u64(whole, at)
    v[2] ^= 0xEE if size == 16 else 0xFF
    rounds(last_rounds)
    out = (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")
    if size == 16:
        v[1] ^= 0xDD
        rounds(last_rounds)
        out += (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")
    return out


def siphash13(key, data, size=8):
    return siphash(key, data, size, 1, 3)


# XXH3 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
MX1, MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25


def _u32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


def _swap(x, size):
    return int.from_bytes(x.to_bytes(size, "little"), "big")


def _rotl64(x, n):
    return (x << n | x >> (64 - n)) & M64


def _avalanche(x):
    x = (x ^ x >> 37) * MX1 & M64
    return x ^ x >> 32


def _avalanche64(x):
    x = (x ^ x >> 33) * P64[1] & M64
    x = (x ^ x >> 29) * P64[2] & M64
    return x ^ x >> 32


def _fold(a, b):
    product = a * b
    return product & M64 ^ product >> 64


def _mix(data, at, secret_at, seed, secret=SECRET):
    low = _u64(data, at) ^ (_u64(secret, secret_at) + seed & M64)
    high = _u64(data, at + 8) ^ (_u64(secret, secret_at + 8) - seed & M64)
    return _fold(low, high)


def _accumulate_all(data, seed):
    """The eight accumulators over more than 240 bytes, and the secret made from the seed."""
    secret = b"".join(
        ((_u64(SECRET, i) + (seed if i % 16 == 0 else -seed)) & M64).to_bytes(8, "little")
        for i in range(0, 192, 8)
    )
    acc = [P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]]

    def accumulate(at, secret_at):
        for i in range(8):
            value = _u64(data, at + i * 8)
            keyed = value ^ _u64(secret, secret_at + i * 8)
            acc[i ^ 1] = (acc[i ^ 1] + value) & M64
            acc[i] = (acc[i] + (keyed & M32) * (keyed >> 32)) & M64

    stripes = (len(data) - 1) // 64
    for stripe in range(stripes):
        accumulate(stripe * 64, stripe % 16 * 8)
        if stripe % 16 == 15:
            for i in range(8):
                x = acc[i] ^ acc[i] >> 47 ^ _u64(secret, 128 + i * 8)
                acc[i] = x * P32[0] & M64
    accumulate(len(data) - 64, 121)
    return acc, secret


def _merge(acc, start, secret, secret_at):
    for i in range(4):
        start += _fold(
            acc[2 * i] ^ _u64(secret, secret_at + 16 * i),
            acc[2 * i + 1] ^ _u64(secret, secret_at + 16 * i + 8),
        )
    return _avalanche(start & M64)


def xxh3_64(data, seed=0):
    n, s = len(data), SECRET
    if n == 0:
        return _avalanche64(seed ^ _u64(s, 56) ^ _u64(s, 64))
    if n <= 3:
        combined = data[n - 1] | n << 8 | data[0] << 16 | data[n >> 1] << 24
        return _avalanche64(((_u32(s, 0) ^ _u32(s, 4)) + seed & M64) ^ combined)
    if n <= 8:
        seed ^= _swap(seed & M32, 4) << 32
        combined = _u32(data, n - 4) | _u32(data, 0) << 32
        x = ((_u64(s, 8) ^ _u64(s, 16)) - seed & M64) ^ combined
        x = (x ^ _rotl64(x, 49) ^ _rotl64(x, 24)) * MX2 & M64
        x = (x ^ (x >> 35) + n) * MX2 & M64
        return x ^ x >> 28
    if n <= 16:
        low = ((_u64(s, 24) ^ _u64(s, 32)) + seed & M64) ^ _u64(data, 0)
        high = ((_u64(s, 40) ^ _u64(s, 48)) - seed & M64) ^ _u64(data, n - 8)
        return _avalanche(n + _swap(low, 8) + high + _fold(low, high) & M64)
    acc = n * P64[0] & M64
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += _mix(data, i * 16, i * 32, seed) + _mix(data, n - i * 16 - 16, i * 32 + 16, seed)
        return _avalanche(acc & M64)
    if n <= 240:
        for i in range(8):
            acc += _mix(data, i * 16, i * 16, seed)
        acc = _avalanche(acc & M64)
        for i in range(8, n // 16):
            acc += _mix(data, i * 16, (i - 8) * 16 + 3, seed)
        return _avalanche(acc + _mix(data, n - 16, 119, seed) & M64)
    lanes, secret = _accumulate_all(data, seed)
    return _merge(lanes, acc, secret, 11)


def _xxh3_128_short(data, seed):
    n, s = len(data), SECRET
    if n == 0:
        return (
            _avalanche64(seed ^ _u64(s, 64) ^ _u64(s, 72)),
            _avalanche64(seed ^ _u64(s, 80) ^ _u64(s, 88)),
        )
    if n <= 3:
        combined = data[n - 1] | n << 8 | data[0] << 16 | data[n >> 1] << 24
        swapped = _swap(combined, 4)
        turned = (swapped << 13 | swapped >> 19) & M32
        low = ((_u32(s, 0) ^ _u32(s, 4)) + seed & M64) ^ combined
        high = ((_u32(s, 8) ^ _u32(s, 12)) - seed & M64) ^ turned
        return _avalanche64(low), _avalanche64(high)
    if n <= 8:
        seed ^= _swap(seed & M32, 4) << 32
        combined = _u32(data, 0) | _u32(data, n - 4) << 32
        product = (((_u64(s, 16) ^ _u64(s, 24)) + seed & M64) ^ combined) * (P64[0] + (n << 2))
        low, high = product & M64, product >> 64 & M64
        high = high + (low << 1) & M64
        low ^= high >> 3
        low = (low ^ low >> 35) * MX2 & M64
        return low ^ low >> 28, _avalanche(high)
    first, last = _u64(data, 0), _u64(data, n - 8)
    one = ((_u64(s, 32) ^ _u64(s, 40)) - seed & M64) ^ first ^ last
    two = ((_u64(s, 48) ^ _u64(s, 56)) + seed & M64) ^ last
    product = one * P64[0]
    low = (product & M64) + ((n - 1) << 54) & M64
    high = (product >> 64) + (two & M32 ^ two) + (two & M32) * P32[1] & M64
    low ^= _swap(high, 8)
    product = low * P64[1]
    return _avalanche(product & M64), _avalanche((product >> 64) + high * P64[1] & M64)


def xxh3_128(data, seed=0):
    """The 16 bytes of the hash, least significant first."""
    n = len(data)
    if n <= 16:
        low, high = _xxh3_128_short(data, seed)
    elif n <= 240:
        acc = [n * P64[0] & M64, 0]

        def two(at, end, secret_at, seed):
            acc[0] = acc[0] + _mix(data, at, secret_at, seed) & M64
            acc[0] ^= _u64(data, end) + _u64(data, end + 8) & M64
            acc[1] = acc[1] + _mix(data, end, secret_at + 16, seed) & M64
            acc[1] ^= _u64(data, at) + _u64(data, at + 8) & M64

        if n <= 128:
            for i in range((n - 1) // 32, -1, -1):
                two(i * 16, n - i * 16 - 16, i * 32, seed)
        else:
            for i in range(4):
                two(i * 32, i * 32 + 16, i * 32, seed)
            acc[:] = map(_avalanche, acc)
            for i in range(4, n // 32):
                two(i * 32, i * 32 + 16, (i - 4) * 32 + 3, seed)
            two(n - 16, n - 32, 103, -seed & M64)
        low = _avalanche(acc[0] + acc[1] & M64)
        high = acc[0] * P64[0] + acc[1] * P64[3] + (n - seed) * P64[1] & M64
        high = -_avalanche(high) & M64
    else:
        lanes, secret = _accumulate_all(data, seed)
        low = _merge(lanes, n * P64[0] & M64, secret, 11)
        high = _merge(lanes, ~(n * P64[1]) & M64, secret, 117)
    return (high << 64 | low).to_bytes(16, "little")
