"""Steps over 16 numbers at once, for compiled loops that the compiler does not turn into vectors by itself.

They are written in LLVM's own vectors, which it has on every processor. None looks whether the arrays end: 16 numbers
must be there, whatever they are. All places in arrays are uint64.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: numbers that a step takes at once
AT_ONCE = 16
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_INTS = ir.VectorType(_INT32, AT_ONCE)


@intrinsic
def load_64(_: Any, source: Any, at: Any) -> Any:
    """Return 8 bytes of a byte array as one little-endian uint64."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = _load(builder, _pointer(context, builder, signature, values, 0), _INT64)
        return number if sys.byteorder == "little" else builder.bswap(number)

    return types.uint64(source, types.uint64), emit


@intrinsic
def load_32(_: Any, source: Any, at: Any) -> Any:
    """Return 4 bytes of a byte array as one uint32 of the machine's own byte order."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _load(builder, _pointer(context, builder, signature, values, 0), _INT32)

    return types.uint32(source, types.uint64), emit


@intrinsic
def copy_16(_: Any, target: Any, at: Any, source: Any, start: Any) -> Any:
    """Copy 16 numbers from source[start] on to target[at] on; both arrays have the same dtype."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        numbers = ir.VectorType(context.get_data_type(source.dtype), AT_ONCE)
        copied = _load(builder, _pointer(context, builder, signature, values, 2), numbers)
        _store(builder, copied, _pointer(context, builder, signature, values, 0))
        return context.get_dummy_value()

    return types.none(target, types.uint64, source, types.uint64), emit


@intrinsic
def fill_16(_: Any, target: Any, at: Any, value: Any) -> Any:
    """Put `value`, of the array's dtype, 16 times into `target` from target[at] on."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _store(builder, _in_all(builder, values[2]), _pointer(context, builder, signature, values, 0))
        return context.get_dummy_value()

    return types.none(target, types.uint64, target.dtype), emit


@intrinsic
def sum_16(_: Any, source: Any, start: Any, num: Any) -> Any:
    """Return the sum, int64, of `num` uint32 from source[start] on, or of 16 where `num` is larger."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        longs = ir.VectorType(_INT64, AT_ONCE)
        found = builder.zext(_load(builder, _pointer(context, builder, signature, values, 0), _INTS), longs)
        taken = builder.icmp_unsigned("<", ir.Constant(longs, list(range(AT_ONCE))), _in_all(builder, values[2]))
        sums = builder.select(taken, found, ir.Constant(longs, [0] * AT_ONCE))
        for distance in (8, 4, 2, 1):
            lanes = [(lane + distance) % AT_ONCE for lane in range(AT_ONCE)]
            sums = builder.add(sums, builder.shuffle_vector(sums, sums, ir.Constant(_INTS, lanes)))
        return builder.extract_element(sums, ir.Constant(_INT32, 0))

    return types.int64(source, types.uint64, types.uint64), emit


@intrinsic
def rank_16(_: Any, keys: Any, at: Any, first: Any, num: Any, other: Any, ranks: Any, place: Any) -> Any:
    """Put into ranks[place] on how many of the `num` keys from keys[first] on, and of `other`, lie below each of the 16
    keys from keys[at] on; all are int32.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        own = _load(builder, _pointer(context, builder, signature, values, 0), _INTS)
        below = builder.zext(builder.icmp_signed(">", own, _in_all(builder, values[4])), _INTS)
        found = cgutils.alloca_once_value(builder, below)
        start = _pointer(context, builder, signature, (values[0], values[2]), 0, signature.args[0])
        with cgutils.for_range(builder, values[3]) as loop:
            key = _in_all(builder, builder.load(builder.gep(start, [loop.index])))
            below = builder.zext(builder.icmp_signed(">", own, key), _INTS)
            builder.store(builder.add(builder.load(found), below), found)
        _store(builder, builder.load(found), _pointer(context, builder, signature, values, 5))
        return context.get_dummy_value()

    place64 = types.uint64
    return types.none(keys, place64, place64, place64, types.int32, ranks, place64), emit


def _pointer(context: Any, builder: Any, signature: Any, values: Any, nth: int, kind: Any = None) -> Any:
    """Return the address of an array's element: argument `nth` is the array, the one behind it the place."""
    kind = signature.args[nth] if kind is None else kind
    data = context.make_array(kind)(context, builder, values[nth]).data
    return builder.gep(data, [values[nth + 1]])


def _load(builder: Any, pointer: Any, kind: Any) -> Any:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=1)


def _in_all(builder: Any, value: Any) -> Any:
    empty = ir.Constant(ir.VectorType(value.type, AT_ONCE), ir.Undefined)
    one = builder.insert_element(empty, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * AT_ONCE))
