"""Which operations a model may have: none that reads or writes files, runs other programs' code, or talks to others.

A SavedModel is a program. Refused wherever they stand: operations that TensorFlow here does not know, files, Python,
the network, devices that are not here, graphs inside of values, and the end of the process. Reading the variables and
the vocabularies of tables is how a model loads: that may happen then, from its own files, and at no other time. Writing
variables may be in the graph, as ``tf.saved_model.save`` puts it there, where nothing that runs calls it.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.tensorflow.graph_walk import TOP, GraphWalk, get_attribute
from airflow_provider_timl.runtimes.tensorflow.library import op_def_registry
from airflow_provider_timl.runtimes.tensorflow.saved_model import VARIABLES
from airflow_provider_timl.runtimes.tensorflow.session import find_init_op

#: Operations that write what the saver saves, and that only the saver calls.
_WRITERS = frozenset({"Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints"})
#: Operations that read files when a model loads: which of their inputs is the path.
_READERS = {
    "Restore": 0,
    "RestoreSlice": 0,
    "RestoreV2": 0,
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
}
_REFUSED = {
    "reads or writes files": re.compile(
        r"ReadFile|WriteFile|MatchingFiles|.*Reader(V2)?|Reader(?!Base).*|RecordInput|.*Dataset.*|.*Snapshot.+|.*Iterator.*"
        r"|LoadAndRemapMatrix|GenerateVocabRemapping|Skipgram|ImmutableConst|DumpTensor|CalibrationStatisticsSaver"
        r"|.*SummaryWriter|CreateSummary.*|Write.*Summary|ImportEvent|DTensorRestoreV2|CheckpointHasKey"
        r"|FileSystem.*|DistributedSave|Debug(Identity|NanCount|NumericSummary).*"
    ),
    "runs Python": re.compile(r".*PyFunc.*"),
    "talks to other processes": re.compile(
        r".*(Rpc|RemoteCall|RemoteFused).*|(Xla)?(Send|Recv).*"
        r"|Collective.*|.*Nccl.*|.*BigQuery.*|.*Bigtable.*|.*PubSub.*|.*Kafka.*"
    ),
    "needs a device that is not here": re.compile(r".*TPU.*|XlaHostCompute.*"),
    "runs a graph that inspection does not see": re.compile(r"Mlir.*|TRTEngineOp"),
    "ends the process": re.compile(r"Abort"),
    "is internal to TensorFlow": re.compile(r"_(?!Arg|Retval).*"),
}
#: Attributes that can name a file or an address, and the values that do not.
_ATTRIBUTES = {
    "FixedUnigramCandidateSampler": ("vocab_file", re.compile(rb"")),
    "DecodeProtoV2": ("descriptor_source", re.compile(rb"(local://|bytes://.*)?", re.DOTALL)),
    "EncodeProto": ("descriptor_source", re.compile(rb"(local://|bytes://.*)?", re.DOTALL)),
    "PrintV2": ("output_stream", re.compile(rb"|stderr|stdout|log\(\w+\)")),
}


def check_operations(graph: Any, assets: Any, *, is_served: bool) -> None:
    """Look at every node of a graph and of its functions.

    :param graph: a ``MetaGraphDef``.
    :param assets: names of the tensors that take paths of the model's own files.
    :param is_served: whether this is the graph that will run; of the others, devices do not matter.
    :raises InvalidModelError: naming the operation and its node.
    """
    walk = GraphWalk(graph)
    hidden = next((name for name in walk.functions if op_def_registry.get(name) is not None), None)
    if hidden is not None:
        raise InvalidModelError(f"the function {hidden!r} has the name of an operation of TensorFlow")
    for scope, node in walk.iterate():
        problem = _find_problem(node, walk, is_served=is_served)
        if problem is not None:
            raise InvalidModelError(f"the operation {node.op!r} {problem}; it is {_describe(scope, node)}")
    _check_savers(graph, walk, assets)


def _find_problem(node: Any, walk: GraphWalk, *, is_served: bool) -> str | None:
    if node.op in walk.functions:
        return None
    for problem, pattern in _REFUSED.items():
        if pattern.fullmatch(node.op) and (is_served or "device" not in problem):
            return problem
    if is_served and op_def_registry.get(node.op) is None:
        return "is not known to TensorFlow here: models with custom operations cannot be served"
    attribute, allowed = _ATTRIBUTES.get(node.op, (None, None))
    if attribute is not None and allowed is not None and not allowed.fullmatch(get_attribute(node, attribute).s):
        return "reads or writes files"
    return None


def _check_savers(graph: Any, walk: GraphWalk, assets: Any) -> None:
    init = find_init_op(graph)
    serving = walk.find_reach(
        [info.name for each in graph.signature_def.values() for info in each.outputs.values() if info.name != init]
    )
    restoring = walk.find_reach([graph.saver_def.restore_op_name])
    starting = walk.find_reach([init] if init else [])
    fed_to_init = {_normalize(name) for name in assets}
    fed_to_restore = fed_to_init | {_normalize(graph.saver_def.filename_tensor_name)}
    for scope, node in walk.iterate():
        if node.op not in _WRITERS and node.op not in _READERS:
            continue
        where = _describe(scope, node)
        if serving.has(scope, node.name):
            raise InvalidModelError(f"the operation {node.op!r} reads or writes files in a request; it is {where}")
        for reach, fed in ((restoring, fed_to_restore), (starting, fed_to_init)):
            if not reach.has(scope, node.name):
                continue
            if node.op in _WRITERS:
                raise InvalidModelError(f"the operation {node.op!r} writes files when the model loads; it is {where}")
            place = _READERS[node.op]
            if len(node.input) <= place or not walk.comes_from(scope, node.input[place], fed, reach):
                raise InvalidModelError(
                    f"the operation {node.op!r} reads another file than {VARIABLES} and the model's assets, or "
                    f"one that cannot be told; it is {where}"
                )


def _describe(scope: str, node: Any) -> str:
    return f"the node {node.name!r}" if scope == TOP else f"the node {node.name!r} in the function {scope!r}"


def _normalize(name: str) -> str:
    return name if ":" in name else f"{name}:0"
