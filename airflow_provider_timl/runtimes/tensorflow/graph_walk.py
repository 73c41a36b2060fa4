"""What can run in a graph: its nodes, the functions that they call, and where a node's input comes from.

Functions are taken as a whole: whoever can call one can run all of its nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow_provider_timl.runtimes.tensorflow.library import attr_value_pb2

#: The graph itself, beside its functions.
TOP = ""
#: Operations that hand their inputs to a function as its arguments, and how many inputs stand before those.
_CALLS = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}

#: What may be done with a variable whose values are to be told.
_VARIABLE_USERS = frozenset({"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"})


@dataclass(frozen=True)
class Reach:
    """What can run: names of nodes of the graph itself, and of functions."""

    nodes: frozenset[str]
    functions: frozenset[str]

    def has(self, scope: str, name: str) -> bool:
        return name in self.nodes if scope == TOP else scope in self.functions


class GraphWalk:
    """:param graph: a ``MetaGraphDef``."""

    def __init__(self, graph: Any) -> None:
        definition = graph.graph_def
        self.functions = {function.signature.name: function for function in definition.library.function}
        self._gradients = {each.function_name: each.gradient_func for each in definition.library.gradient}
        self.nodes = {TOP: {node.name: node for node in definition.node}} | {
            name: {node.name: node for node in function.node_def} for name, function in self.functions.items()
        }

    def iterate(self) -> Iterator[tuple[str, Any]]:
        """Every node there is, with the name of its function."""
        for scope, nodes in self.nodes.items():
            for node in nodes.values():
                yield scope, node

    def list_functions(self, node: Any) -> set[str]:
        """The functions that a node may call."""
        found = {node.op}
        for attribute in node.attr.values():
            found.add(attribute.func.name)
            found.update(each.name for each in attribute.list.func)
        return found & self.functions.keys()

    def find_reach(self, roots: Iterable[str]) -> Reach:
        """What runs to compute tensors, or run operations, of the graph itself."""
        top = self.nodes[TOP]
        nodes: set[str] = set()
        stack = [name for root in roots if (name := _find_node(root)) in top]
        while stack:
            name = stack.pop()
            if name not in nodes:
                nodes.add(name)
                stack.extend(each for text in top[name].input if (each := _find_node(text)) in top)
        called = {each for name in nodes for each in self.list_functions(top[name])}
        return Reach(frozenset(nodes), frozenset(self._close(called)))

    def comes_from(self, scope: str, text: str, fed: Collection[str], reach: Reach) -> bool:
        """Whether an input, as its node writes it, is always one of the tensors ``fed`` of the graph itself, in what
        can run. ``Identity`` and arguments of functions are followed; anything else makes it false."""
        seen: set[tuple[str, str]] = set()
        stack = [(scope, text)]
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            if place[0] == TOP and _normalize(place[1]) in fed:
                continue
            before = self._step_back(*place, reach)
            if before is None:
                return False
            stack += before
        return True

    def _list_assigned(self, handle: str) -> list[tuple[str, str]] | None:
        """All that a variable of the graph itself may be set to; ``None`` when others may set it. TensorFlow keeps the
        path of an asset in such a variable."""
        variable = self.nodes[TOP].get(_find_node(handle))
        if variable is None or variable.op != "VarHandleOp":
            return None
        shared = [node for _, node in self.iterate() if node.op == "VarHandleOp" and _share(node, variable)]
        users = [node for node in self.nodes[TOP].values() if variable.name in map(_find_node, node.input)]
        if len(shared) != 1 or any(node.op not in _VARIABLE_USERS for node in users):
            return None
        return [(TOP, node.input[1]) for node in users if node.op == "AssignVariableOp"]

    @cached_property
    def _alternatives(self) -> dict[bytes, set[str]]:
        """Functions that TensorFlow may put in each other's place when it optimizes."""
        found = defaultdict(set)
        for name, function in self.functions.items():
            if "api_implements" in function.attr:
                found[function.attr["api_implements"].s].add(name)
        return found

    @cached_property
    def _callers(self) -> dict[str, list[tuple[str, Any]]]:
        found = defaultdict(list)
        for scope, node in self.iterate():
            for name in self.list_functions(node):
                found[name].append((scope, node))
        return found

    def _close(self, called: set[str]) -> set[str]:
        """With all that these functions may call."""
        functions: set[str] = set()
        stack = list(called)
        while stack:
            name = stack.pop()
            if name in functions or name not in self.functions:
                continue
            functions.add(name)
            stack.extend(each for node in self.nodes[name].values() for each in self.list_functions(node))
            stack.append(self._gradients.get(name, name))
            function = self.functions[name]
            if "api_implements" in function.attr:
                stack.extend(self._alternatives[function.attr["api_implements"].s])
        return functions

    def _step_back(self, scope: str, text: str, reach: Reach) -> list[tuple[str, str]] | None:
        """The places that hand on this value; ``None`` when it is made here, or by what is not followed."""
        node = self.nodes[scope].get(_find_node(text))
        if node is not None and node.op == "Identity" and node.input:
            return [(scope, node.input[0])]
        if node is not None:
            return self._list_assigned(node.input[0]) if scope == TOP and node.op == "ReadVariableOp" else None
        if scope == TOP:
            return None
        names = [argument.name for argument in self.functions[scope].signature.input_arg]
        if text not in names:
            return None
        before = []
        for caller_scope, caller in self._callers[scope]:
            if reach.has(caller_scope, caller.name):
                offset = 0 if caller.op == scope else _CALLS.get(caller.op)
                if offset is None or names.index(text) + offset >= len(caller.input):
                    return None
                before.append((caller_scope, caller.input[names.index(text) + offset]))
        return before


def get_attribute(node: Any, name: str) -> Any:
    """An attribute's value, or an empty one. Asking the map itself would put it there."""
    return node.attr.get(name) or attr_value_pb2.AttrValue()


def _share(node: Any, other: Any) -> bool:
    """Whether two handles may be of one variable."""
    names, others = ({each.name.encode(), get_attribute(each, "shared_name").s} for each in (node, other))
    return bool(names & others)


def _find_node(text: str) -> str:
    return text.removeprefix("^").split(":", 1)[0]


def _normalize(text: str) -> str:
    return text if ":" in text else f"{text}:0"
