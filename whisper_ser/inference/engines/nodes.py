"""An ONNX graph that grows operator by operator."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Value: TypeAlias = str | np.ndarray | int | float | Sequence[int]
"""The name of a result, or a constant: whole numbers become int64, others float32."""


class Nodes:
    """The operators of one graph in their order, and its constants.

    Args:
        outer: the graph around this one, for the body of a loop; constants lie in the outermost.
    """

    def __init__(self, outer: "Nodes | None" = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._outermost: Nodes = self if outer is None else outer._outermost
        if outer is None:
            self.constants: list[onnx.TensorProto] = []
            self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
            self._names = 0

    def op(self, kind: str, *inputs: Value, **attributes: Any) -> str:
        """Returns the name of the result of a new operator with one result."""
        (result,) = self.ops(kind, 1, *inputs, **attributes)
        return result

    def ops(self, kind: str, results: int, *inputs: Value, **attributes: Any) -> list[str]:
        """Returns the names of the results of a new operator."""
        names = [self.name(kind.lower()) for _ in range(results)]
        self.nodes.append(helper.make_node(kind, [self._named(value) for value in inputs], names, **attributes))
        return names

    def name(self, kind: str) -> str:
        """Returns a name that no other value has."""
        root = self._outermost
        root._names += 1
        return f"{kind}_{root._names}"

    def size(self, x: Value, axis: int) -> str:
        """Returns the length of `x` along an axis, `(1,)`."""
        return self.op("Gather", self.op("Shape", x), [axis])

    def shape(self, *sizes: Value) -> str:
        """Returns sizes, each a number or `(1,)`, as one shape."""
        return self.op("Concat", *([size] if isinstance(size, int) else size for size in sizes), axis=0)

    def scalar(self, x: Value) -> str:
        """Returns `x` `(1,)` without its axis."""
        return self.op("Squeeze", x, [0])

    def cut(self, x: Value, start: Value, end: Value, axis: int, step: int = 1) -> str:
        """Returns `x` from `start` to before `end` along an axis; both are numbers or `(1,)`."""
        ends = [[value] if isinstance(value, int) else value for value in (start, end)]
        return self.op("Slice", x, *ends, [axis], [step])

    def divided_up(self, x: Value, by: Value) -> str:
        """Returns whole numbers divided by others, rounded up."""
        return self.op("Div", self.op("Sub", self.op("Add", x, by), 1), by)

    def count_to(self, end: Value) -> str:
        """Returns 0, 1, ... up to before `end` `(1,)`."""
        return self.op("Range", 0, self.scalar(end), 1)

    def loop(self, rounds: Value, body: Callable[["Nodes", str], str]) -> str:
        """Returns the float32 results of `body`, called with its own graph and the round `(1,)`, stacked.

        Only what `body` makes of a round is in memory, besides the results.
        """
        inner = Nodes(self)
        number, condition = self.name("round"), self.name("condition")
        result = body(inner, inner.op("Unsqueeze", number, [0]))
        go_on = inner.op("Identity", condition)
        graph = helper.make_graph(
            inner.nodes,
            self.name("body"),
            [
                helper.make_tensor_value_info(number, TensorProto.INT64, []),
                helper.make_tensor_value_info(condition, TensorProto.BOOL, []),
            ],
            [
                helper.make_tensor_value_info(go_on, TensorProto.BOOL, []),
                helper.make_tensor_value_info(result, TensorProto.FLOAT, None),
            ],
        )
        return self.op("Loop", self.scalar(rounds), np.array(True), body=graph)

    def _named(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        if not isinstance(value, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        root = self._outermost
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in root._known:
            root._known[key] = self.name("constant")
            root.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), root._known[key]))
        return root._known[key]
