"""Random numbers of whole arrays of samples, each a function of its own key: by hash, or as numpy would draw them."""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

U64 = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def key_of(*parts: object) -> int:
    """A 64-bit key of anything with a stable `repr`: seeds, names."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def hashed(*parts: ArrayLike) -> U64:
    """64-bit hashes of tuples of integers, broadcast against each other: steps of splitmix64 (Steele et al., 2014).

    Negative integers count modulo 2**64. The result has at least one dimension.
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mixed((state ^ _unsigned(part)) + _GOLDEN)
    return state


def uniform(bits: U64) -> NDArray[np.float64]:
    """Numbers in [0, 1) from 64 random bits each: the upper 53 count."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def numpy_uniform(seeds: ArrayLike, draw: int = 0) -> NDArray[np.float64]:
    """What `numpy.random.default_rng(int(seed)).random()` gives, for each seed of an array.

    Args:
        seeds: 0 to 2**64 - 1.
        draw: 0: the generator's first number, 1: its second, and so on.
    """
    words = _seed_words(_unsigned(seeds))
    state, increment = _pcg64_start(words)
    for _ in range(draw + 1):
        state = _pcg64_step(state, increment)
    high, low = state
    rotation = high >> np.uint64(58)
    bits = high ^ low
    back = (np.uint64(64) - rotation) & np.uint64(63)
    return uniform(np.bitwise_or(bits >> rotation, bits << back))


def _unsigned(values: ArrayLike) -> U64:
    if isinstance(values, int):
        return np.array([values & 0xFFFFFFFFFFFFFFFF], np.uint64)
    return np.atleast_1d(np.asarray(values)).astype(np.uint64)


def _mixed(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# numpy's SeedSequence, after M. O'Neill's seed_seq_fe: constants of numpy/random/bit_generator.pyx. It hashes in a
# fixed order, so each hash has its own constant, a power of the multiplier.


def _powers(start: int, multiplier: int, count: int) -> list[int]:
    values = [start]
    for _ in range(count):
        values.append(values[-1] * multiplier & 0xFFFFFFFF)
    return values


_POOL = 4
_A = _powers(0x43B0D7E5, 0x931E8875, _POOL * _POOL)
_B = _powers(0x8B51F9DD, 0x58F38DED, 2 * _POOL)
_MIX_LEFT, _MIX_RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)


def _seed_words(seeds: U64) -> list[U64]:
    """The four 64-bit words with which a generator of each seed starts."""
    low, high = (seeds & _LOW).astype(np.uint32), (seeds >> _HALF).astype(np.uint32)
    nothing = np.zeros_like(low)
    pool = [_hash32(word, _A, i) for i, word in enumerate((low, high, nothing, nothing))]
    number = _POOL
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed = _MIX_LEFT * pool[target] - _MIX_RIGHT * _hash32(pool[source], _A, number)
                pool[target] = mixed ^ (mixed >> np.uint32(16))
                number += 1
    words = [_hash32(pool[i % _POOL], _B, i).astype(np.uint64) for i in range(2 * _POOL)]
    return [words[2 * i] | (words[2 * i + 1] << _HALF) for i in range(_POOL)]


def _hash32(value: NDArray[np.uint32], constants: list[int], number: int) -> NDArray[np.uint32]:
    value = (value ^ np.uint32(constants[number])) * np.uint32(constants[number + 1])
    return value ^ (value >> np.uint32(16))


# PCG64 (XSL-RR 128/64): 128-bit numbers as pairs (high, low) of 64-bit ones.

_Pair = tuple[U64, U64]
_MULTIPLIER_HIGH, _MULTIPLIER_LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)


def _pcg64_start(words: list[U64]) -> tuple[_Pair, _Pair]:
    """(state, increment) after seeding; the first step from zero only adds the increment."""
    one = np.uint64(1)
    increment = ((words[2] << one) | (words[3] >> np.uint64(63)), (words[3] << one) | one)
    return _pcg64_step(_add(increment, (words[0], words[1])), increment), increment


def _pcg64_step(state: _Pair, increment: _Pair) -> _Pair:
    high, low = state
    product_high = _upper_product(low, _MULTIPLIER_LOW) + low * _MULTIPLIER_HIGH + high * _MULTIPLIER_LOW
    return _add((product_high, low * _MULTIPLIER_LOW), increment)


def _add(left: _Pair, right: _Pair) -> _Pair:
    low = left[1] + right[1]
    return left[0] + right[0] + (low < left[1]).astype(np.uint64), low


def _upper_product(x: U64, constant: np.uint64) -> U64:
    """The upper 64 bits of x times a constant."""
    x_high, x_low = x >> _HALF, x & _LOW
    c_high, c_low = constant >> _HALF, constant & _LOW
    middle = x_high * c_low + ((x_low * c_low) >> _HALF)
    return x_high * c_high + (middle >> _HALF) + ((x_low * c_high + (middle & _LOW)) >> _HALF)
