"""Conditions over the columns of a table, as text: "aesthetic >= 5 and flow > 0.5 and error is null".

Python's own parser reads the text, and only the few forms below are understood; nothing is ever executed.
"""

import ast
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vidtron.curation.table import CurationError

ACCEPTED = (
    "column names, numbers, texts in quotes, true, false, null; == != < <= > >=, in (...), not in (...), "
    "is null, is not null; and, or, not; + - * /; length(column) for characters of a text"
)
_COMPARISONS: dict[type, Callable[..., Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: dict[type, Callable[..., Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    # Integers divide as in Python, and a division by zero is infinite: no row stops the others.
    ast.Div: lambda a, b: pc.divide(pc.cast(a, pa.float64()), pc.cast(b, pa.float64())),
}
_CONSTANTS = {"null": None, "true": True, "false": False}


class Condition:
    """One condition, ready for tables.

    Raises:
        CurationError: not a condition, or a form that is not understood.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise CurationError(f"--where {self.text!r}: {error.msg}; accepted: {ACCEPTED}") from error

    def parts(self) -> list["Condition"]:
        """The conditions that `and` joins, outermost."""
        tree = self._tree
        if not (isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)):
            return [self]
        return [Condition(ast.get_source_segment(self.text, value) or "") for value in tree.values]

    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """True for the rows that fulfil it; false and null for the others (a comparison with null is null).

        Raises:
            CurationError: no such column, types that cannot be compared, or not a condition.
        """
        try:
            value = self._value(self._tree, table)
        except pa.ArrowException as error:
            raise CurationError(f"--where {self.text!r}: {error}") from error
        if isinstance(value, pa.Scalar) or not pa.types.is_boolean(value.type):
            raise CurationError(f"--where {self.text!r}: is no condition; accepted: for instance duration >= 2")
        return value

    def _value(self, node: ast.expr, table: pa.Table) -> Any:
        match node:
            case ast.Name(id=name) if name in table.column_names:
                return table[name]
            case ast.Name(id=name) if name in _CONSTANTS:
                return pa.scalar(_CONSTANTS[name])
            case ast.Name(id=name):
                raise CurationError(
                    f"--where {self.text!r}: no column {name}; accepted: {', '.join(table.column_names)}"
                )
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return pa.scalar(value)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return pc.negate(self._value(operand, table))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return pc.invert(self._value(operand, table))
            case ast.BoolOp(op=op, values=values):
                join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                found = [self._value(value, table) for value in values]
                while len(found) > 1:
                    found[:2] = [join(found[0], found[1])]
                return found[0]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self._value(left, table), self._value(right, table))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = [self._compared(*three, table) for three in zip(sides, ops, comparators, strict=False)]
                while len(pairs) > 1:
                    pairs[:2] = [pc.and_kleene(pairs[0], pairs[1])]
                return pairs[0]
            case ast.Call(func=ast.Name(id="length"), args=[argument], keywords=[]):
                return pc.utf8_length(self._value(argument, table))
        raise CurationError(f"--where {self.text!r}: {ast.unparse(node)} is not understood; accepted: {ACCEPTED}")

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr, table: pa.Table) -> Any:
        value = self._value(left, table)
        match op, right:
            case (ast.Is() | ast.IsNot(), ast.Name(id="null") | ast.Constant(value=None)):
                null = pc.is_null(value)
                return null if isinstance(op, ast.Is) else pc.invert(null)
            case (ast.In() | ast.NotIn(), ast.Tuple(elts=choices) | ast.List(elts=choices)):
                values = [self._value(choice, table) for choice in choices]
                if not all(isinstance(choice, pa.Scalar) for choice in values):
                    raise CurationError(f"--where {self.text!r}: accepted after in: numbers and texts")
                found = pc.is_in(value, pa.array([choice.as_py() for choice in values], value.type))
                if isinstance(op, ast.In):
                    return found
                return pc.and_(pc.invert(found), pc.is_valid(value))  # null is neither in nor not in
            case _ if type(op) in _COMPARISONS:
                return _COMPARISONS[type(op)](value, self._value(right, table))
        raise CurationError(
            f"--where {self.text!r}: {ast.unparse(ast.Compare(left, [op], [right]))} is not understood; "
            f"accepted: {ACCEPTED}"
        )


def removed_by_each(condition: Condition, table: pa.Table) -> list[tuple[str, int, int]]:
    """For each part of a condition: its text, rows it alone would remove, rows that the parts before it left and it
    removes."""
    counts = []
    kept = None
    for part in condition.parts():
        fulfilled = pc.fill_null(part.of(table), False)
        before = table.num_rows if kept is None else _true(kept)
        kept = fulfilled if kept is None else pc.and_(kept, fulfilled)
        counts.append((part.text, table.num_rows - _true(fulfilled), before - _true(kept)))
    return counts


def _true(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0
