"""One small PMML model of each kind, written for these tests, with answers that Python computes on its own.

``CASES`` maps a name to the content of a PMML element and to pairs of an instance and what its prediction holds.
"""

from __future__ import annotations

import math
from typing import Any

FRAME = (
    '<?xml version="1.0"?><PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">'
    '<Header><Application name="tests" version="1"/></Header>{}</PMML>'
)
Case = tuple[str, list[tuple[dict[str, Any], dict[str, Any]]]]


def build_dictionary(*fields: str) -> str:
    """A data dictionary from ``name:optype:dataType[:category|category…]``."""
    written = []
    for field in fields:
        name, optype, dtype, *categories = field.split(":")
        values = "".join(f'<Value value="{value}"/>' for value in (categories[0].split("|") if categories else ()))
        written.append(f'<DataField name="{name}" optype="{optype}" dataType="{dtype}">{values}</DataField>')
    return f"<DataDictionary>{''.join(written)}</DataDictionary>"


def build_schema(*inputs: str, target: str = "y") -> str:
    fields = "".join(f'<MiningField name="{name}"/>' for name in inputs)
    return f'<MiningSchema>{fields}<MiningField name="{target}" usageType="target"/></MiningSchema>'


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(*values: float) -> list[float]:
    exponents = [math.exp(value) for value in values]
    return [value / sum(exponents) for value in exponents]


def normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


TWO_NUMBERS = build_dictionary("a:continuous:double", "b:continuous:double", "y:continuous:double")
TWO_CLASSES = build_dictionary("a:continuous:double", "b:continuous:double", "y:categorical:string:yes|no")
THREE_CLASSES = build_dictionary("a:continuous:double", "b:continuous:double", "y:categorical:string:p|q|r")


def build_regression(normalization: str, tables: str) -> str:
    return (
        f'{THREE_CLASSES}<RegressionModel functionName="classification" normalizationMethod="{normalization}">'
        f"{build_schema('a', 'b')}{tables}</RegressionModel>"
    )


TABLES = """
<RegressionTable targetCategory="p" intercept="0.5"><NumericPredictor name="a" coefficient="1.5"/></RegressionTable>
<RegressionTable targetCategory="q" intercept="-0.25"><NumericPredictor name="b" exponent="2" coefficient="0.5"/>
  <PredictorTerm coefficient="2"><FieldRef field="a"/><FieldRef field="b"/></PredictorTerm></RegressionTable>
<RegressionTable targetCategory="r" intercept="0"/>"""
SCORES = (0.5 + 1.5 * 0.3, -0.25 + 0.5 * 0.7**2 + 2 * 0.3 * 0.7, 0.0)


def regression_poly() -> Case:
    model = f"""{TWO_NUMBERS}<RegressionModel functionName="regression" normalizationMethod="exp">
      {build_schema("a", "b")}<RegressionTable intercept="0.125">
      <NumericPredictor name="a" exponent="3" coefficient="0.5"/><NumericPredictor name="b" coefficient="-1"/>
      </RegressionTable></RegressionModel>"""
    return model, [({"a": 1.1, "b": 0.4}, {"y": math.exp(0.125 + 0.5 * 1.1**3 - 0.4)})]


def regression_softmax() -> Case:
    p, q, r = softmax(*SCORES)
    answer = {"y": "p", "probability": p, "probability_p": p, "probability_q": q, "probability_r": r}
    return build_regression("softmax", TABLES), [({"a": 0.3, "b": 0.7}, answer)]


def regression_binary() -> Case:
    model = f"""{TWO_CLASSES}<RegressionModel functionName="classification" normalizationMethod="cloglog">
      {build_schema("a", "b")}<RegressionTable targetCategory="yes" intercept="-0.5">
      <NumericPredictor name="a" coefficient="2"/></RegressionTable>
      <RegressionTable targetCategory="no" intercept="0"/></RegressionModel>"""
    yes = 1 - math.exp(-math.exp(-0.5 + 2 * 0.1))
    return model, [({"a": 0.1, "b": 0}, {"probability_yes": yes, "probability_no": 1 - yes})]


def general_regression(model_type: str, attributes: str, cells: str, classification: bool) -> str:
    dictionary = THREE_CLASSES if classification else TWO_NUMBERS
    function = "classification" if classification else "regression"
    return f"""{dictionary}<GeneralRegressionModel functionName="{function}" modelType="{model_type}" {attributes}>
      {build_schema("a", "b")}
      <ParameterList><Parameter name="p0"/><Parameter name="p1"/><Parameter name="p2"/></ParameterList><FactorList/>
      <CovariateList><Predictor name="a"/><Predictor name="b"/></CovariateList>
      <PPMatrix><PPCell value="1" predictorName="a" parameterName="p1"/>
        <PPCell value="2" predictorName="b" parameterName="p2"/></PPMatrix>
      <ParamMatrix>{cells}</ParamMatrix></GeneralRegressionModel>"""


CELLS = (
    '<PCell parameterName="p0" beta="0.2"/><PCell parameterName="p1" beta="0.5"/>'
    '<PCell parameterName="p2" beta="-0.3"/>'
)
ETA = 0.2 + 0.5 * 0.6 - 0.3 * 0.5**2
LINKS = {
    "identity": ETA,
    "log": math.exp(ETA),
    "logit": sigmoid(ETA),
    "cloglog": 1 - math.exp(-math.exp(ETA)),
    "loglog": math.exp(-math.exp(-ETA)),
    "probit": normal_cdf(ETA),
    "logc": 1 - math.exp(ETA),
}


def general_link(link: str) -> Case:
    attributes = f'linkFunction="{link}" distribution="normal"'
    return general_regression("generalizedLinear", attributes, CELLS, False), [
        ({"a": 0.6, "b": 0.5}, {"y": LINKS[link]})
    ]


def general_power() -> Case:
    attributes = 'linkFunction="power" linkParameter="2" distribution="normal"'
    return general_regression("generalizedLinear", attributes, CELLS, False), [
        ({"a": 0.6, "b": 0.5}, {"y": math.sqrt(ETA)})
    ]


def general_linear() -> Case:
    return general_regression("generalLinear", "", CELLS, False), [({"a": 0.6, "b": 0.5}, {"y": ETA})]


def general_offset() -> Case:
    attributes = 'linkFunction="log" distribution="poisson" offsetValue="0.75"'
    return general_regression("generalizedLinear", attributes, CELLS, False), [
        ({"a": 0.6, "b": 0.5}, {"y": math.exp(ETA + 0.75)})
    ]


def general_multinomial() -> Case:
    cells = "".join(
        f'<PCell targetCategory="{category}" parameterName="{name}" beta="{beta}"/>'
        for category, betas in (("p", (0.2, 0.5, -0.3)), ("q", (-0.1, 0.4, 0.6)))
        for name, beta in zip(("p0", "p1", "p2"), betas, strict=True)
    )
    p, q, r = softmax(ETA, -0.1 + 0.4 * 0.6 + 0.6 * 0.25, 0.0)
    return general_regression("multinomialLogistic", 'targetReferenceCategory="r"', cells, True), [
        ({"a": 0.6, "b": 0.5}, {"y": "p", "probability_p": p, "probability_q": q, "probability_r": r})
    ]


def general_ordinal() -> Case:
    cells = (
        '<PCell targetCategory="p" parameterName="p0" beta="-0.4"/>'
        '<PCell targetCategory="q" parameterName="p0" beta="0.9"/>'
        '<PCell parameterName="p1" beta="0.5"/><PCell parameterName="p2" beta="-0.3"/>'
    )
    content = general_regression("ordinalMultinomial", 'cumulativeLink="logit"', cells, True)
    content = content.replace('name="y" optype="categorical"', 'name="y" optype="ordinal"')
    rest = 0.5 * 0.6 - 0.3 * 0.25
    first, second = sigmoid(-0.4 + rest), sigmoid(0.9 + rest)
    return content, [
        (
            {"a": 0.6, "b": 0.5},
            {"probability_p": first, "probability_q": second - first, "probability_r": 1 - second},
        )
    ]


def general_factor() -> Case:
    model = f"""{build_dictionary("a:continuous:double", "c:categorical:string:u|v|w", "y:continuous:double")}
      <GeneralRegressionModel functionName="regression" modelType="generalLinear">{build_schema("a", "c")}
      <ParameterList><Parameter name="p0"/><Parameter name="p1"/><Parameter name="p2"/></ParameterList>
      <FactorList><Predictor name="c"/></FactorList><CovariateList><Predictor name="a"/></CovariateList>
      <PPMatrix><PPCell value="u" predictorName="c" parameterName="p1"/>
        <PPCell value="v" predictorName="c" parameterName="p2"/>
        <PPCell value="1" predictorName="a" parameterName="p2"/></PPMatrix>
      <ParamMatrix>{CELLS}</ParamMatrix></GeneralRegressionModel>"""
    return model, [
        ({"a": 2, "c": "u"}, {"y": 0.7}),
        ({"a": 2, "c": "v"}, {"y": 0.2 - 0.6}),
        ({"a": 2, "c": "w"}, {"y": 0.2}),
    ]


def tree(strategy: str, body: str = "") -> str:
    return f"""{TWO_CLASSES}<TreeModel functionName="classification" splitCharacteristic="binarySplit" {strategy}>
      {build_schema("a", "b")}
      <Node id="0" score="yes" recordCount="10" defaultChild="1"><True/>
        <ScoreDistribution value="yes" recordCount="6"/><ScoreDistribution value="no" recordCount="4"/>
        <Node id="1" score="yes" recordCount="6"><SimplePredicate field="a" operator="lessOrEqual" value="0.5"/>
          <ScoreDistribution value="yes" recordCount="5"/><ScoreDistribution value="no" recordCount="1"/></Node>
        <Node id="2" score="no" recordCount="4"><SimplePredicate field="a" operator="greaterThan" value="0.5"/>
          <ScoreDistribution value="yes" recordCount="1"/><ScoreDistribution value="no" recordCount="3"/></Node>
      </Node></TreeModel>"""


TREE_STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ('missingValueStrategy="none"', {"y": None}),
    "none_last": (
        'missingValueStrategy="none" noTrueChildStrategy="returnLastPrediction"',
        {"y": "yes", "probability_yes": 0.6},
    ),
    "null": ('missingValueStrategy="nullPrediction"', {"y": None}),
    "last": ('missingValueStrategy="lastPrediction"', {"y": "yes", "probability_yes": 0.6}),
    "default": ('missingValueStrategy="defaultChild"', {"y": "yes", "probability_yes": 5 / 6}),
    "aggregate": ('missingValueStrategy="aggregateNodes"', {"y": "yes"}),
}


def tree_strategy(name: str) -> Case:
    attributes, missing = TREE_STRATEGIES[name]
    return tree(attributes), [
        ({"a": 0.5, "b": None}, {"y": "yes", "probability_yes": 5 / 6}),
        ({"a": 0.6, "b": 1}, {"y": "no", "probability_no": 0.75}),
        ({"a": None, "b": 1}, missing),
    ]


def tree_sets() -> Case:
    model = f"""{build_dictionary("c:categorical:string:u|v|w x", "n:continuous:integer", "y:continuous:double")}
      <TreeModel functionName="regression" noTrueChildStrategy="returnLastPrediction">{build_schema("c", "n")}
      <Node score="1.5"><True/>
        <Node score="2.5"><SimpleSetPredicate field="c" booleanOperator="isIn">
          <Array type="string" n="2">u "w x"</Array></SimpleSetPredicate></Node>
        <Node score="3.5"><CompoundPredicate booleanOperator="or">
          <SimplePredicate field="n" operator="greaterThan" value="3"/>
          <SimpleSetPredicate field="n" booleanOperator="isNotIn"><Array type="int" n="2">1 2</Array>
          </SimpleSetPredicate></CompoundPredicate></Node>
        <Node score="4.5"><CompoundPredicate booleanOperator="surrogate">
          <SimplePredicate field="c" operator="equal" value="v"/>
          <SimplePredicate field="n" operator="equal" value="1"/></CompoundPredicate></Node>
      </Node></TreeModel>"""
    return model, [
        ({"c": "w x", "n": 1}, {"y": 2.5}),
        ({"c": "u", "n": None}, {"y": 2.5}),
        ({"c": "v", "n": 3}, {"y": 3.5}),
        ({"c": "v", "n": 2}, {"y": 4.5}),
        ({"c": "v", "n": 1}, {"y": 4.5}),
    ]


def build_segments(method: str, weights: str = "", function: str = "regression") -> str:
    scores = ("1", "2", "6") if function == "regression" else ("yes", "no", "yes")
    dictionary = TWO_NUMBERS if function == "regression" else TWO_CLASSES
    limits = ("0", "0", "5")
    segments = "".join(
        f"""<Segment id="s{i}" {f'weight="{weight}"' if weights else ""}>
        <SimplePredicate field="a" operator="greaterThan" value="{limit}"/>
        <TreeModel functionName="{function}"><MiningSchema><MiningField name="a"/></MiningSchema>
        <Node score="{score}"><True/></Node></TreeModel></Segment>"""
        for i, (score, limit, weight) in enumerate(zip(scores, limits, weights.split() or ("",) * 3, strict=True))
    )
    return f"""{dictionary}<MiningModel functionName="{function}">{build_schema("a", "b")}
      <Segmentation multipleModelMethod="{method}">{segments}</Segmentation></MiningModel>"""


NUMERIC_METHODS = {
    "sum": (3, 9),
    "average": (1.5, 3),
    "median": (1.5, 2),
    "selectFirst": (1, 1),
}


def mining_numeric(method: str) -> Case:
    few, all_ = NUMERIC_METHODS[method]
    return build_segments(method), [({"a": 1, "b": 0}, {"y": few}), ({"a": 9, "b": 0}, {"y": all_})]


def mining_weighted_average() -> Case:
    return build_segments("weightedAverage", "1 3 4"), [
        ({"a": 1, "b": 0}, {"y": (1 + 6) / 4}),
        ({"a": 9, "b": 0}, {"y": (1 + 6 + 24) / 8}),
    ]


def mining_weighted_sum() -> Case:
    return build_segments("weightedSum", "1 3 4"), [({"a": 9, "b": 0}, {"y": 31})]


def mining_majority() -> Case:
    return build_segments("majorityVote", "", "classification"), [
        ({"a": 9, "b": 0}, {"y": "yes", "probability_yes": 2 / 3, "probability_no": 1 / 3})
    ]


def mining_weighted_majority() -> Case:
    return build_segments("weightedMajorityVote", "1 3 1", "classification"), [
        ({"a": 9, "b": 0}, {"y": "no", "probability_yes": 0.4, "probability_no": 0.6})
    ]


def boosted() -> Case:
    """Shaped as converters write XGBoost and LightGBM: summed trees whose margin a regression makes a probability."""
    trees = "".join(
        f"""<Segment id="{i}"><True/><TreeModel functionName="regression" missingValueStrategy="defaultChild"
        splitCharacteristic="binarySplit" noTrueChildStrategy="returnLastPrediction">
        <MiningSchema><MiningField name="a"/><MiningField name="b"/></MiningSchema>
        <Node id="n{i}" defaultChild="l{i}"><True/>
        <Node id="l{i}" score="{left}"><SimplePredicate field="{field}" operator="lessThan" value="{cut}"/></Node>
        <Node id="r{i}" score="{right}">
          <SimplePredicate field="{field}" operator="greaterOrEqual" value="{cut}"/></Node>
        </Node></TreeModel></Segment>"""
        for i, (field, cut, left, right) in enumerate((("a", 1.5, 0.3, -0.2), ("b", 0.5, -0.6, 0.9)))
    )
    model = f"""{TWO_CLASSES}<MiningModel functionName="classification">{build_schema("a", "b")}
      <Segmentation multipleModelMethod="modelChain">
      <Segment id="1"><True/><MiningModel functionName="regression">
        <MiningSchema><MiningField name="a"/><MiningField name="b"/></MiningSchema>
        <Output><OutputField name="margin" optype="continuous" dataType="double" feature="predictedValue"
          isFinalResult="false"/></Output>
        <Targets><Target rescaleConstant="0.1"/></Targets>
        <Segmentation multipleModelMethod="sum">{trees}</Segmentation></MiningModel></Segment>
      <Segment id="2"><True/><RegressionModel functionName="classification" normalizationMethod="logit">
        <MiningSchema><MiningField name="margin"/><MiningField name="y" usageType="target"/></MiningSchema>
        <Output><OutputField name="probability(yes)" optype="continuous" dataType="double" feature="probability"
          value="yes"/></Output>
        <RegressionTable targetCategory="yes" intercept="0"><NumericPredictor name="margin" coefficient="1"/>
        </RegressionTable><RegressionTable targetCategory="no" intercept="0"/></RegressionModel></Segment>
      </Segmentation></MiningModel>"""

    def answer(margin: float) -> dict[str, Any]:
        yes = sigmoid(margin + 0.1)
        return {"y": "yes" if yes > 0.5 else "no", "probability(yes)": yes}

    return model, [
        ({"a": 1, "b": 1}, answer(0.3 + 0.9)),
        ({"a": 2, "b": 0}, answer(-0.2 - 0.6)),
        ({"a": None, "b": None}, answer(0.3 - 0.6)),
    ]


def naive_bayes() -> Case:
    model = f"""{build_dictionary("c:categorical:string:u|v", "a:continuous:double", "y:categorical:string:yes|no")}
      <NaiveBayesModel functionName="classification" threshold="0.001">{build_schema("c", "a")}
      <BayesInputs><BayesInput fieldName="c">
        <PairCounts value="u"><TargetValueCounts><TargetValueCount value="yes" count="30"/>
          <TargetValueCount value="no" count="5"/></TargetValueCounts></PairCounts>
        <PairCounts value="v"><TargetValueCounts><TargetValueCount value="yes" count="10"/>
          <TargetValueCount value="no" count="15"/></TargetValueCounts></PairCounts></BayesInput>
      <BayesInput fieldName="a"><TargetValueStats>
        <TargetValueStat value="yes"><GaussianDistribution mean="1" variance="0.5"/></TargetValueStat>
        <TargetValueStat value="no"><GaussianDistribution mean="-1" variance="2"/></TargetValueStat>
      </TargetValueStats></BayesInput></BayesInputs>
      <BayesOutput fieldName="y"><TargetValueCounts><TargetValueCount value="yes" count="40"/>
        <TargetValueCount value="no" count="20"/></TargetValueCounts></BayesOutput></NaiveBayesModel>"""

    def density(x: float, mean: float, variance: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    yes, no = 40 * 0.25 * density(0.2, 1, 0.5), 20 * 0.75 * density(0.2, -1, 2)
    return model, [
        ({"c": "v", "a": 0.2}, {"probability_yes": yes / (yes + no), "probability_no": no / (yes + no)}),
        ({"c": "u", "a": None}, {"y": "yes", "probability_yes": 30 / 35}),
    ]


def neural(activation: str, compute: Any) -> Case:
    model = f"""{TWO_CLASSES}<NeuralNetwork functionName="classification" activationFunction="{activation}"
      numberOfLayers="2">{build_schema("a", "b")}
      <NeuralInputs><NeuralInput id="i0"><DerivedField optype="continuous" dataType="double"><NormContinuous field="a">
        <LinearNorm orig="0" norm="0"/><LinearNorm orig="10" norm="1"/></NormContinuous></DerivedField></NeuralInput>
      <NeuralInput id="i1"><DerivedField optype="continuous" dataType="double"><FieldRef field="b"/></DerivedField>
      </NeuralInput></NeuralInputs>
      <NeuralLayer><Neuron id="h0" bias="0.1"><Con from="i0" weight="0.8"/><Con from="i1" weight="-0.4"/></Neuron>
        <Neuron id="h1" bias="-0.2"><Con from="i0" weight="0.3"/><Con from="i1" weight="0.9"/></Neuron></NeuralLayer>
      <NeuralLayer activationFunction="identity" normalizationMethod="softmax">
        <Neuron id="o0" bias="0"><Con from="h0" weight="1.2"/><Con from="h1" weight="-0.7"/></Neuron>
        <Neuron id="o1" bias="0.3"><Con from="h0" weight="-0.5"/><Con from="h1" weight="0.6"/></Neuron></NeuralLayer>
      <NeuralOutputs><NeuralOutput outputNeuron="o0"><DerivedField optype="categorical" dataType="string">
        <NormDiscrete field="y" value="yes"/></DerivedField></NeuralOutput>
        <NeuralOutput outputNeuron="o1"><DerivedField optype="categorical" dataType="string">
        <NormDiscrete field="y" value="no"/></DerivedField></NeuralOutput></NeuralOutputs></NeuralNetwork>"""
    h0, h1 = compute(0.1 + 0.8 * 0.7 - 0.4 * 0.5), compute(-0.2 + 0.3 * 0.7 + 0.9 * 0.5)
    yes, no = softmax(1.2 * h0 - 0.7 * h1, 0.3 - 0.5 * h0 + 0.6 * h1)
    return model, [({"a": 7, "b": 0.5}, {"probability_yes": yes, "probability_no": no})]


def support_vectors() -> Case:
    model = f"""{TWO_NUMBERS}<SupportVectorMachineModel functionName="regression" svmRepresentation="SupportVectors">
      {build_schema("a", "b")}<RadialBasisKernelType gamma="0.5"/>
      <VectorDictionary numberOfVectors="2"><VectorFields numberOfFields="2"><FieldRef field="a"/><FieldRef field="b"/>
      </VectorFields><VectorInstance id="v1"><Array type="real" n="2">1 0</Array></VectorInstance>
      <VectorInstance id="v2"><REAL-SparseArray n="2"><Indices>2</Indices><REAL-Entries>2</REAL-Entries>
      </REAL-SparseArray></VectorInstance></VectorDictionary>
      <SupportVectorMachine><SupportVectors numberOfSupportVectors="2" numberOfAttributes="2">
        <SupportVector vectorId="v1"/><SupportVector vectorId="v2"/></SupportVectors>
      <Coefficients absoluteValue="0.3" numberOfCoefficients="2"><Coefficient value="1.5"/><Coefficient value="-0.5"/>
      </Coefficients></SupportVectorMachine></SupportVectorMachineModel>"""
    a, b = 0.4, 1.1
    near = 1.5 * math.exp(-0.5 * ((a - 1) ** 2 + b**2))
    far = -0.5 * math.exp(-0.5 * (a**2 + (b - 2) ** 2))
    return model, [({"a": a, "b": b}, {"y": near + far + 0.3})]


def support_vector_classes() -> Case:
    model = f"""{TWO_CLASSES}<SupportVectorMachineModel functionName="classification"
      classificationMethod="OneAgainstOne" svmRepresentation="SupportVectors">
      {build_schema("a", "b")}<LinearKernelType/>
      <VectorDictionary numberOfVectors="2"><VectorFields numberOfFields="2"><FieldRef field="a"/><FieldRef field="b"/>
      </VectorFields><VectorInstance id="v1"><Array type="real" n="2">1 0</Array></VectorInstance>
      <VectorInstance id="v2"><Array type="real" n="2">0 1</Array></VectorInstance></VectorDictionary>
      <SupportVectorMachine targetCategory="no" alternateTargetCategory="yes">
      <SupportVectors numberOfSupportVectors="2" numberOfAttributes="2">
        <SupportVector vectorId="v1"/><SupportVector vectorId="v2"/></SupportVectors>
      <Coefficients absoluteValue="0" numberOfCoefficients="2"><Coefficient value="1"/><Coefficient value="-1"/>
      </Coefficients></SupportVectorMachine></SupportVectorMachineModel>"""
    return model, [({"a": 2, "b": 1}, {"y": "yes"}), ({"a": 1, "b": 2}, {"y": "no"})]


def clusters() -> Case:
    model = f"""{build_dictionary("a:continuous:double", "b:continuous:double")}
      <ClusteringModel functionName="clustering" modelClass="centerBased" numberOfClusters="2">
      <MiningSchema><MiningField name="a"/><MiningField name="b"/></MiningSchema>
      <Output><OutputField name="nearest" optype="categorical" dataType="string" feature="predictedValue"/>
        <OutputField name="label" optype="categorical" dataType="string" feature="predictedDisplayValue"/>
        <OutputField name="distance" optype="continuous" dataType="double" feature="affinity"/>
        <OutputField name="to_far" optype="continuous" dataType="double" feature="affinity" value="2"/></Output>
      <ComparisonMeasure kind="distance"><euclidean/></ComparisonMeasure>
      <ClusteringField field="a" compareFunction="absDiff"/><ClusteringField field="b" fieldWeight="4"/>
      <Cluster name="near"><Array type="real" n="2">0 0</Array></Cluster>
      <Cluster name="far"><Array type="real" n="2">9 9</Array></Cluster></ClusteringModel>"""
    near, far = math.sqrt(1 + 4 * 4), math.sqrt(64 + 4 * 49)
    return model, [
        ({"a": 1, "b": 2}, {"nearest": "1", "label": "near", "distance": near, "to_far": far}),
        ({"a": 9, "b": 9}, {"nearest": "2", "label": "far", "distance": 0.0}),
    ]


def neighbours(function: str) -> Case:
    numeric = function == "regression"
    rows = ((0, 0, "10", "yes"), (1, 0, "20", "no"), (0, 2, "60", "no"), (9, 9, "99", "yes"))
    table = "".join(
        f"<row><a>{a}</a><b>{b}</b><y>{number if numeric else label}</y></row>" for a, b, number, label in rows
    )
    model = f"""{TWO_NUMBERS if numeric else TWO_CLASSES}<NearestNeighborModel functionName="{function}"
      numberOfNeighbors="3" continuousScoringMethod="average" categoricalScoringMethod="majorityVote">
      {build_schema("a", "b")}
      <TrainingInstances recordCount="4" fieldCount="3"><InstanceFields><InstanceField field="a" column="a"/>
      <InstanceField field="b" column="b"/><InstanceField field="y" column="y"/></InstanceFields>
      <InlineTable>{table}</InlineTable></TrainingInstances>
      <ComparisonMeasure kind="distance"><squaredEuclidean/></ComparisonMeasure>
      <KNNInputs><KNNInput field="a" compareFunction="absDiff"/><KNNInput field="b"/></KNNInputs>
      </NearestNeighborModel>"""
    return model, [({"a": 0.2, "b": 0.1}, {"y": 30.0 if numeric else "no"})]


def rules(selection: str) -> Case:
    model = f"""{TWO_CLASSES}<RuleSetModel functionName="classification">{build_schema("a", "b")}
      <RuleSet defaultScore="no" defaultConfidence="0.1" recordCount="100" nbCorrect="70">
      <RuleSelectionMethod criterion="{selection}"/>
      <SimpleRule id="r1" score="yes" weight="0.6" confidence="0.7">
        <SimplePredicate field="a" operator="greaterThan" value="1"/></SimpleRule>
      <CompoundRule><SimplePredicate field="b" operator="greaterThan" value="1"/>
        <SimpleRule id="r2" score="no" weight="0.9" confidence="0.8">
          <SimplePredicate field="a" operator="greaterThan" value="2"/></SimpleRule>
        <SimpleRule id="r3" score="yes" weight="0.2" confidence="0.4">
          <SimplePredicate field="a" operator="lessOrEqual" value="2"/></SimpleRule></CompoundRule>
      </RuleSet></RuleSetModel>"""
    both = {"firstHit": "yes", "weightedSum": "no", "weightedMax": "no"}[selection]
    return model, [
        ({"a": 3, "b": 2}, {"y": both}),
        ({"a": 0, "b": 2}, {"y": "yes"}),
        ({"a": 0, "b": 0}, {"y": "no"}),
    ]


def scorecard() -> Case:
    model = f"""{build_dictionary("age:continuous:integer", "job:categorical:string:work|none", "y:continuous:double")}
      <Scorecard functionName="regression" initialScore="10" useReasonCodes="true" reasonCodeAlgorithm="pointsBelow"
      baselineMethod="max">{build_schema("age", "job")}
      <Output><OutputField name="score" feature="predictedValue" dataType="double" optype="continuous"/>
        <OutputField name="why" feature="reasonCode" rank="1" dataType="string" optype="categorical"/>
        <OutputField name="why2" feature="reasonCode" rank="2" dataType="string" optype="categorical"/></Output>
      <Characteristics>
      <Characteristic name="ageScore" reasonCode="AGE" baselineScore="30">
        <Attribute partialScore="5"><SimplePredicate field="age" operator="isMissing"/></Attribute>
        <Attribute partialScore="12"><SimplePredicate field="age" operator="lessThan" value="30"/></Attribute>
        <Attribute partialScore="30"><SimplePredicate field="age" operator="greaterOrEqual" value="30"/></Attribute>
      </Characteristic>
      <Characteristic name="jobScore" reasonCode="JOB" baselineScore="25">
        <Attribute partialScore="25" reasonCode="JOB_GOOD"><SimplePredicate field="job" operator="equal" value="work"/>
        </Attribute><Attribute partialScore="2"><True/></Attribute>
      </Characteristic></Characteristics></Scorecard>"""
    return model, [
        ({"age": 20, "job": "work"}, {"score": 47.0, "why": "AGE"}),
        ({"age": 20, "job": "none"}, {"score": 24.0, "why": "JOB", "why2": "AGE"}),
        ({"age": None, "job": "work"}, {"score": 40.0, "why": "AGE"}),
    ]


def isolation_forest() -> Case:
    model = f"""{build_dictionary("a:continuous:double")}
      <AnomalyDetectionModel functionName="regression" algorithmType="iforest" sampleDataSize="8">
      <MiningSchema><MiningField name="a"/></MiningSchema>
      <Output><OutputField name="anomaly" optype="continuous" dataType="double" feature="predictedValue"/></Output>
      <MiningModel functionName="regression"><MiningSchema><MiningField name="a"/></MiningSchema>
      <Output><OutputField name="depth" optype="continuous" dataType="double" feature="predictedValue"/></Output>
      <Segmentation multipleModelMethod="average"><Segment id="1"><True/>
      <TreeModel functionName="regression"><MiningSchema><MiningField name="a"/></MiningSchema>
        <Node id="0"><True/><Node id="1" score="1"><SimplePredicate field="a" operator="lessThan" value="0"/></Node>
        <Node id="2" score="4"><SimplePredicate field="a" operator="greaterOrEqual" value="0"/></Node></Node>
      </TreeModel></Segment></Segmentation></MiningModel></AnomalyDetectionModel>"""
    average_path = 2 * (math.log(7) + 0.57721566) - 2 * 7 / 8
    return model, [
        ({"a": -1}, {"anomaly": 2 ** (-1 / average_path)}),
        ({"a": 1}, {"anomaly": 2 ** (-4 / average_path)}),
    ]


def association() -> Case:
    model = """<DataDictionary><DataField name="transaction" optype="categorical" dataType="string"/>
      <DataField name="item" optype="categorical" dataType="string"><Value value="beer"/><Value value="crisps"/>
      <Value value="salsa"/></DataField></DataDictionary>
      <AssociationModel functionName="associationRules" numberOfTransactions="4" numberOfItems="3" minimumSupport="0.25"
      minimumConfidence="0.5" numberOfItemsets="2" numberOfRules="3">
      <MiningSchema><MiningField name="transaction" usageType="group"/><MiningField name="item"/></MiningSchema>
      <Output><OutputField name="advice" feature="consequent" dataType="string" optype="categorical" rank="1"
        algorithm="recommendation" rankBasis="confidence" rankOrder="descending"/></Output>
      <Item id="1" value="beer"/><Item id="2" value="crisps"/><Item id="3" value="salsa"/>
      <Itemset id="1"><ItemRef itemRef="1"/></Itemset><Itemset id="2"><ItemRef itemRef="2"/></Itemset>
      <Itemset id="3"><ItemRef itemRef="3"/></Itemset>
      <AssociationRule id="r1" support="0.5" confidence="0.6" lift="1.2" antecedent="1" consequent="2"/>
      <AssociationRule id="r3" support="0.25" confidence="0.95" antecedent="1" consequent="3"/>
      <AssociationRule id="r2" support="0.25" confidence="0.9" antecedent="2" consequent="3"/>
      </AssociationModel>"""
    return model, [
        ({"transaction": "1", "item": "beer"}, {"advice": "salsa"}),
        ({"transaction": "1", "item": "crisps"}, {"advice": "salsa"}),
        ({"transaction": "2", "item": "salsa"}, {"advice": None}),
    ]


CASES: dict[str, Case] = {
    "regression_poly": regression_poly(),
    "regression_softmax": regression_softmax(),
    "regression_binary": regression_binary(),
    **{f"general_{link}": general_link(link) for link in LINKS},
    "general_power": general_power(),
    "general_linear": general_linear(),
    "general_offset": general_offset(),
    "general_multinomial": general_multinomial(),
    "general_ordinal": general_ordinal(),
    "general_factor": general_factor(),
    **{f"tree_{name}": tree_strategy(name) for name in TREE_STRATEGIES},
    "tree_sets": tree_sets(),
    **{f"mining_{method}": mining_numeric(method) for method in NUMERIC_METHODS},
    "mining_weighted_average": mining_weighted_average(),
    "mining_weighted_sum": mining_weighted_sum(),
    "mining_majority": mining_majority(),
    "mining_weighted_majority": mining_weighted_majority(),
    "boosted": boosted(),
    "naive_bayes": naive_bayes(),
    "neural_logistic": neural("logistic", sigmoid),
    "neural_tanh": neural("tanh", math.tanh),
    "neural_rectifier": neural("rectifier", lambda x: max(x, 0.0)),
    "support_vectors": support_vectors(),
    "support_vector_classes": support_vector_classes(),
    "clusters": clusters(),
    "neighbours_regression": neighbours("regression"),
    "neighbours_classification": neighbours("classification"),
    **{f"rules_{selection}": rules(selection) for selection in ("firstHit", "weightedSum", "weightedMax")},
    "scorecard": scorecard(),
    "isolation_forest": isolation_forest(),
    "association": association(),
}
