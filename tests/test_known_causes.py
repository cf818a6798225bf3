"""What a hypothesis explains, and that it explains nothing else: not a neighbour, not with one element off."""

import numpy as np
import pytest

from alignment.engine.explaining.activations import ACTIVATIONS
from alignment.engine.explaining.attention import Form, Source, _attended
from alignment.engine.explaining.case import Case
from alignment.engine.explaining.known_causes import explain_gradient, explain_value
from alignment.engine.explaining.lookups import lookup
from alignment.engine.explaining.rounding import narrowed


def array(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


D = array(2, 8, seed=13)
A, B, C = (array(2, 8, 6, 6, seed=seed) for seed in (0, 1, 2))
TOKENS, OTHERS = (array(3, 7, 16, seed=seed) for seed in (3, 4))
WIDE = array(3, 7, 48, seed=5)
HEADS = array(3, 4, 7, 7, seed=6)
GAMMA, BETA = array(16, seed=7) + 1.5, array(16, seed=8)
SCALE = np.array([3.0])


def value(expected, actual, known=None, parameters=None, extra=None):
    found = [np.ascontiguousarray(side) for side in (expected, actual)]
    return explain_value(Case(*found, known or {}, parameters=parameters or {}, extra=extra or {}))


def act(name, x):
    return ACTIVATIONS[name](x)


def normed(x, axes=-1, epsilon=1e-5, ddof=0, outside=0.0, centred=True, w=1.0, b=0.0):
    centre = x.mean(axes, keepdims=True) if centred else 0
    variance = ((x - centre) ** 2).mean(axes, keepdims=True)
    members = x.size / variance.size
    return (x - centre) / (np.sqrt(variance * members / (members - ddof) + epsilon) + outside) * w + b


def grouped(x, groups, epsilon=1e-5):
    parts = x.reshape(len(x), groups, -1)
    return normed(parts, epsilon=epsilon).reshape(x.shape)


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def attended(**how):
    return _attended(Form(4, **how), Source((WIDE,), ADDED))


X, TOKEN = {"input 0": A, "the output of b": B, "the output of c": C}, {"input 0": TOKENS, "the output of fc": OTHERS}
OWN = {"gamma": GAMMA, "bias": BETA}
TABLE_OF_BIASES, INDEX = array(20, 4, seed=10), np.random.RandomState(11).randint(0, 20, (7, 7))
MASK_OF_WINDOWS = np.where(array(3, 7, 7, seed=12) > 1, -100.0, 0.0)
ADDED = {
    "relative_position_bias_table": np.broadcast_to(TABLE_OF_BIASES[INDEX].transpose(2, 0, 1), (3, 4, 7, 7)),
    "input 1": MASK_OF_WINDOWS[:, None],
    "transposed": np.broadcast_to(TABLE_OF_BIASES[INDEX].transpose(2, 1, 0), (3, 4, 7, 7)),
}
QKV = {"the output of qkv": WIDE}
FLAT = {"input 0": array(5, 3, 4, 6)}
RMS, LAYER, INSTANCE = (
    normed(TOKENS, centred=False, epsilon=1e-6, w=GAMMA),
    normed(TOKENS, w=GAMMA, b=BETA),
    normed(A, (2, 3)),
)

# the reference's, the port's, what is known there; words of the cause
FOUND = {
    # sums, parameters of the layer's own and of the port's
    "scaled": (A, A * 1.0001, {}, "scaled by 1.0001"),
    "negated": (A, -A, {}, "scaled by -1"),
    "offset": (A, A + 0.25, {}, "+0.25 is added"),
    "bias": (A, A + np.arange(8).reshape(1, 8, 1, 1), {}, "bias: a constant is added to each channel"),
    "bias of tokens": (TOKENS, TOKENS + array(16), {}, "bias: a constant is added to each channel"),
    "residual missing": (A + B, A, dict(known=X), "residual missing: the output of b is not added"),
    "residual twice": (A + B, A + 2 * B, dict(known=X), "the output of b is added once more"),
    "residual scaled": (A + B, A + B / 2, dict(known=X), "the output of b is added 0.5 times"),
    "residual subtracted": (A + B, A - B, dict(known=X), "the output of b is subtracted"),
    "residual of another": (A + B, A + C, dict(known=X), "the output of c is added instead of the output of b"),
    "layer scale forgotten": (
        TOKENS + GAMMA * OTHERS, TOKENS + OTHERS, dict(known=TOKEN, parameters=OWN),
        "gamma is not applied to the output of fc",
    ),
    "layer scale twice": (
        TOKENS + GAMMA * OTHERS, TOKENS + GAMMA**2 * OTHERS, dict(known=TOKEN, parameters=OWN),
        "gamma is applied twice to the output of fc",
    ),
    "scaled branch missing": (
        TOKENS + GAMMA * OTHERS, TOKENS, dict(known=TOKEN, parameters=OWN), "gamma times the output of fc is not added",
    ),
    "modulation without its 1": (
        TOKENS + (1 + GAMMA) * OTHERS, TOKENS + OTHERS, dict(known=TOKEN, parameters=OWN),
        "gamma times the output of fc is not added",
    ),
    "own scale left out": (TOKENS * 3, TOKENS, dict(parameters={"logit_scale": SCALE}), "logit_scale is not applied"),
    "own scale by exp": (
        TOKENS * np.exp(3), TOKENS, dict(parameters={"logit_scale": SCALE}), "exp(logit_scale) is not applied",
    ),
    "divided by the scale": (
        TOKENS * 3, TOKENS / 3, dict(parameters={"logit_scale": SCALE}), "divided by logit_scale instead of multiplied",
    ),
    "own offset left out": (TOKENS + BETA, TOKENS, dict(parameters={"offset": BETA}), "offset is not added"),
    "own offset twice": (TOKENS, TOKENS + BETA, dict(parameters={"offset": BETA}), "offset is added twice"),
    "parameter of the port": (
        TOKENS, TOKENS * 3, dict(extra={"logit_scale": SCALE}), "scaled by 3, logit_scale, a parameter that the ref",
    ),
    "gate of the port": (TOKENS, TOKENS * GAMMA, dict(extra={"gate": GAMMA}), "multiplied by gate, a parameter that"),
    "offset of the port": (TOKENS, TOKENS + BETA, dict(extra={"shift": BETA}), "shift, a parameter that the reference"),
    "branch gated in the port": (
        TOKENS + OTHERS, TOKENS + GAMMA * OTHERS, dict(known=TOKEN, extra={"ls": GAMMA}), "is multiplied by ls, a",
    ),
    # activations
    "relu missing": (act("relu", A), A, dict(known={}), "relu is missing"),
    "relu besides": (A, act("relu", A), dict(known={}), "activation relu is applied besides"),
    "gelu by tanh": (
        act("gelu", A), act("gelu (tanh)", A), dict(known=X), "activation gelu (tanh) of input 0 instead of gelu",
    ),
    "silu for hardswish": (act("hardswish", A), act("silu (swish)", A), dict(known=X), "silu (swish) of input 0 inst"),
    "quick gelu": (act("gelu", A), A / (1 + np.exp(-1.702 * A)), dict(known=X), "gelu (quick"),
    "relu6": (act("relu", 9 * A), act("relu6", 9 * A), dict(known={"input 0": 9 * A}), "relu6 of input 0 instead of"),
    "softmax over another axis": (
        softmax(A, 1), softmax(A, 3), dict(known=X),
        "softmax (axis 3 of 4) of input 0 instead of softmax (axis 1 of 4)",
    ),
    "activated term": (A + B, act("relu", A) + B, dict(known=X), "relu on input 0 before it is added"),
    "halves of a gate": (
        WIDE[..., :24] * act("gelu", WIDE[..., 24:]), act("gelu", WIDE[..., :24]) * WIDE[..., 24:],
        dict(known={"the output of fc1": WIDE}), "gelu(first) times second of the halves of the output of fc1 instead",
    ),
    "another gate": (
        WIDE[..., :24] * act("gelu", WIDE[..., 24:]), WIDE[..., :24] * act("silu (swish)", WIDE[..., 24:]),
        dict(known={"the output of fc1": WIDE}), "first times silu (swish)(second)",
    ),
    # normalisations
    "epsilon of RMSNorm": (
        RMS, normed(TOKENS, centred=False, epsilon=1e-3, w=GAMMA), dict(known=TOKEN, parameters={"weight": GAMMA}),
        "epsilon 0.001 instead of 1e-06",
    ),
    "RMSNorm for LayerNorm": (
        normed(TOKENS), normed(TOKENS, centred=False), dict(known=TOKEN), "the mean is not subtracted",
    ),
    "epsilon of LayerNorm": (
        LAYER, normed(TOKENS, epsilon=1e-6, w=GAMMA, b=BETA), dict(known=TOKEN, parameters=OWN),
        "epsilon 1e-06 instead of 1e-05",
    ),
    "epsilon outside": (
        normed(TOKENS, epsilon=1e-3), normed(TOKENS, epsilon=0, outside=1e-3), dict(known=TOKEN),
        "divides by the root of the variance, + epsilon instead of the root of variance + epsilon",
    ),
    "unbiased deviation": (
        normed(TOKENS, epsilon=0, outside=1e-6), normed(TOKENS, epsilon=0, outside=1e-6, ddof=1), dict(known=TOKEN),
        "unbiased (n - 1) deviation instead of the biased (n) one",
    ),
    "scale of a norm left out": (
        LAYER, normed(TOKENS, b=BETA), dict(known=TOKEN, parameters=OWN), "gamma is not applied",
    ),
    "another axis": (
        normed(TOKENS), normed(TOKENS, 1), dict(known=TOKEN),
        "normalises over axes [1] instead of axes [2",
    ),
    "epsilon of InstanceNorm": (INSTANCE, normed(A, (2, 3), epsilon=1e-3), dict(known=X), "epsilon 0.001 instead of"),
    "epsilon of GroupNorm": (grouped(A, 4), grouped(A, 4, 1e-3), dict(known=X), "epsilon 0.001 instead of 1e-05"),
    "other groups": (grouped(A, 4), grouped(A, 2), dict(known=X), "2 groups of channels instead of 4 groups"),
    "statistics of the batch": (
        (A - 0.1) / np.sqrt(np.arange(1, 9).reshape(1, 8, 1, 1) + 1e-5), normed(A, (0, 2, 3)),
        dict(known=X, parameters={"running_mean": np.full(8, 0.1), "running_var": np.arange(1.0, 9)}),
        "normalises over axes [0, 2, 3] instead of the running statistics",
    ),
    "epsilon of frozen statistics": (
        (A - 0.1) / np.sqrt(np.arange(1, 9).reshape(1, 8, 1, 1) + 1e-5),
        (A - 0.1) / np.sqrt(np.arange(1, 9).reshape(1, 8, 1, 1) + 1e-3),
        dict(known=X, parameters={"running_mean": np.full(8, 0.1), "running_var": np.arange(1.0, 9)}),
        "epsilon 0.001 instead of 1e-05",
    ),
    "L2 normalisation": (
        TOKENS / np.sqrt((TOKENS**2).sum(-1, keepdims=True) + 1e-6),
        TOKENS / np.sqrt((TOKENS**2).sum(-1, keepdims=True) + 1e-2),
        dict(known=TOKEN), "epsilon 0.01 instead of 1e-06",
    ),
    # attention
    "scale of attention": (
        attended(), attended(scale="by 1 / (width of a head), without the root"), dict(known=QKV),
        "scores are scaled by 1 / (width of a head), without the root instead of by 1 / sqrt(width of a head)",
    ),
    "attention not scaled": (
        attended(), attended(scale="not at all"), dict(known=QKV),
        "scores are scaled not at all",
    ),
    "q and k exchanged": (
        attended(), attended(roles=(1, 0, 2)), dict(known=QKV), "exchanged: k for q, q for k",
    ),
    "k and v exchanged": (
        attended(), attended(roles=(0, 2, 1)), dict(known=QKV), "exchanged: v for k, k for v",
    ),
    "q, k, v of layers": (
        attended(), attended(roles=(1, 0, 2)),
        {"known": {f"the output of attn.{role}_proj": part for role, part in zip("qkv", np.split(WIDE, 3, 2))}},
        "exchanged: k for q, q for k",
    ),
    "qkv cut otherwise": (
        attended(), attended(packed="heads, three, width"), dict(known=QKV), "are cut out as",
    ),
    "heads not put back": (
        attended(), attended(merged="head by head"), dict(known=QKV), "is joined head by head instead of token",
    ),
    "other heads": (
        attended(), _attended(Form(2), Source((WIDE,), {})), dict(known=QKV), "2 heads instead of 4",
    ),
    "softmax over the queries": (
        attended(), attended(softmax="the queries"), dict(known=QKV),
        "over the queries instead",
    ),
    "causal mask forgotten": (
        attended(mask="a causal mask"), attended(), dict(known=QKV),
        "no mask instead of a causal",
    ),
    "relative positions forgotten": (
        attended(added=("relative_position_bias_table",)), attended(),
        dict(known=QKV, parameters={"relative_position_bias_table": TABLE_OF_BIASES, "relative_position_index": INDEX}),
        "relative_position_bias_table is not added to the scores",
    ),
    "relative positions transposed": (
        attended(added=("relative_position_bias_table",)), attended(added=("transposed",)),
        dict(known=QKV, parameters={"relative_position_bias_table": TABLE_OF_BIASES, "relative_position_index": INDEX}),
        "is not added to the scores and relative_position_bias_table transposed is added",
    ),
    "scaled by the root of the width": (A, A * 8**0.5, {}, "scaled by 2.828427125 (the root of 8)"),
    "mask of windows forgotten": (
        attended(added=("relative_position_bias_table", "input 1")), attended(added=("relative_position_bias_table",)),
        dict(
            known=QKV | {"input 1": MASK_OF_WINDOWS},
            parameters={"relative_position_bias_table": TABLE_OF_BIASES, "relative_position_index": INDEX},
        ),
        "input 1 is not added to the scores",
    ),
    "scale of attention with biases": (
        attended(added=("relative_position_bias_table",)),
        attended(added=("relative_position_bias_table",), scale="not at all"),
        dict(known=QKV, parameters={"relative_position_bias_table": TABLE_OF_BIASES, "relative_position_index": INDEX}),
        "scores are scaled not at all",
    ),
    "mask of a softmax": (
        softmax(np.where(np.tri(7, dtype=bool), HEADS, -np.inf)), softmax(HEADS), {},
        "a mask is left out before the softmax over axis 3",
    ),
    "view for a transpose, same shape": (
        TOKENS, TOKENS.reshape(3, 16, 7).swapaxes(1, 2), {}, "it is reshaped from [3, 16, 7], whose axes are [0, 2, 1]",
    ),
    "scores scaled": (softmax(HEADS), softmax(HEADS * 8), {}, "scores are 8 times the reference's before the softmax"),
    # arrangements
    "channels reversed": (A, A[:, ::-1], {}, "channels reversed"),
    "channels permuted": (A, np.roll(A, 3, 1), {}, "channels permuted: 5-7, 0-4"),
    "class token at the end": (TOKENS, np.roll(TOKENS, -1, 1), {}, "shifted by -1 along axis 1"),
    "tokens permuted": (
        TOKENS, TOKENS[:, [3, 0, 1, 2, 4, 6, 5]], {},
        "positions along axis 1 permuted: 3, 0-2, 4, 6, 5",
    ),
    "height and width": (A, A.swapaxes(2, 3), {}, "height and width exchanged"),
    "windows shifted": (A, np.roll(A, (2, 2), (2, 3)), {}, "shifted by [2, 2] along axes [2, 3]"),
    "windows shifted, channels last": (
        A.transpose(0, 2, 3, 1), np.roll(A, (1, -2), (2, 3)).transpose(0, 2, 3, 1), {},
        "shifted by [1, -2] along axes [1, 2]",
    ),
    "concatenated": (
        np.concatenate([A, B], 1), np.concatenate([B, A], 1), dict(known=X),
        "concatenates the output of b, input 0 instead of input 0, the output of b",
    ),
    "concatenated tokens": (
        np.concatenate([TOKENS, OTHERS], 2), np.concatenate([OTHERS, TOKENS], 2), dict(known=TOKEN), "along axis 2",
    ),
    "flattened channels last": (
        FLAT["input 0"].reshape(5, -1), FLAT["input 0"].transpose(0, 2, 3, 1).reshape(5, -1), dict(known=FLAT),
        "input 0 is reshaped with its axes in the order [0, 2, 3, 1] instead of [0, 1, 2, 3]",
    ),
    "view for a transpose": (
        A.transpose(0, 2, 3, 1).reshape(2, 36, 8), A.reshape(2, 36, 8), dict(known=X),
        "input 0 is reshaped with its axes in the order [0, 1, 2, 3] instead of [0, 2, 3, 1]",
    ),
    # expressions
    "activation after a sum": (
        act("relu", A + B), A + B, dict(known=X), "activation relu is missing",
    ),
    "sum of three": (A + B + C, A + B - C, dict(known=X), "the output of c is subtracted"),
    "residual missing beneath an activation": (
        act("relu", A + B), act("relu", B), dict(known=X), "activation relu of the output of b",
    ),
    "residual missing beneath an activation and a mean": (
        act("relu", A + B).mean((2, 3)), act("relu", B).mean((2, 3)), dict(known=X),
        "mean over axes [2, 3] of relu(the output of b) instead of mean over axes [2, 3] of relu(input 0 + the o",
    ),
    "another gate of a map": (
        A / (1 + np.exp(-B[:, :, :1, :1])), A * act("hardsigmoid", B[:, :, :1, :1]),
        dict(known={"input 0": A, "the output of fc": B[:, :, 0, 0]}),
        "computes input 0 * hardsigmoid(the output of fc) instead of input 0 * sigmoid(the output of fc)",
    ),
    "maximum for the mean of a sum": (
        act("relu", A + B).mean((2, 3)), act("relu", A + B).max((2, 3)), dict(known=X),
        "computes maximum over axes [2, 3] of relu(input 0 + the output of b) instead of mean over axes [2, 3] of relu",
    ),
    "gate left out": (
        A / (1 + np.exp(-B[:, :, :1, :1])), A, dict(known={"input 0": A, "the output of fc": B[:, :, :1, :1]}),
        "computes input 0 instead of input 0 * sigmoid(the output of fc)",
    ),
    # the rest
    "mean over other axes": (A.mean((2, 3)), A.mean((2, 1))[:, [0] * 8], dict(known=X), ""),
    "class token for the mean": (
        TOKENS.mean(1), TOKENS[:, 0], dict(known=TOKEN),
        "the first entry along axis 1 of input",
    ),
    "mean without the class token": (
        TOKENS.mean(1), TOKENS[:, 1:].mean(1), dict(known=TOKEN),
        "without the first entry",
    ),
    "maximum for the mean": (A.mean((2, 3)), A.max((2, 3)), dict(known=X), "maximum over axes [2, 3] of input 0"),
    "dropout": (A, np.where(array(2, 8, 6, 6, seed=9) > 0, 2 * A, 0), {}, "dropout is active, rate 0.5"),
    "zeroed": (A, np.where(array(2, 8, 6, 6, seed=9) > 0, A, 0), {}, "elements are zero, as behind a mask"),
    "float32": (A, A.astype(np.float32).astype(float), {}, "computed in float32"),
    "bfloat16": (A, narrowed(A, "bfloat16"), {}, "computed in bfloat16"),
    "something else": (A, array(2, 8, 6, 6, seed=20), dict(known=X), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_a_cause_is_found(name):
    expected, actual, more, words = FOUND[name]
    found = value(expected, actual, **more)
    assert words in found if words else found == ""


@pytest.mark.parametrize("name", FOUND)
def test_no_cause_is_found_where_one_element_is_another(name):
    """By a millionth of the largest: what rounding does not explain."""
    expected, actual, more, _ = FOUND[name]
    actual = np.array(actual)
    place = np.unravel_index(actual.argmax(), actual.shape)  # which no ReLU hides
    actual[place] += 1e-6 * np.abs(actual).max()
    assert value(expected, actual, **more) == ""


@pytest.mark.parametrize("name", ["scaled", "relu missing", "layer scale forgotten", "zeroed"])
def test_a_cause_is_found_in_records_of_float32(name):
    expected, actual, more, words = FOUND[name]
    narrow = Case(expected.astype(np.float32), actual.astype(np.float32), {
        known: tensor.astype(np.float32) for known, tensor in more.get("known", {}).items()
    }, 2.0**-19, more.get("parameters", {}))  # fmt: skip
    assert words[:12] in explain_value(narrow)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.array([2.0]), np.array([3.0])),  # one number is any multiple of another
        (np.full((4, 6), 2.0), np.full((4, 6), 3.0)),
        (np.array([[1.0, 2.0]]), np.array([[5.0, -1.0]])),
        (np.zeros((4, 6)), np.ones((4, 6))),
        (array(4, 1), array(4, 1, seed=1)),
        (array(1, 6), array(1, 6, seed=1)),
        (array(4, 6), array(4, 7, seed=1)),
        (np.empty((0, 4)), np.empty((0, 4))),
        (np.array(2.0), np.array(3.0)),
    ],
)
def test_too_few_numbers_prove_nothing(expected, actual):
    known = {"input 0": array(*expected.shape, seed=2), "input 1": array(*expected.shape, seed=3)}
    parameters = {"weight": array(*expected.shape[-1:], seed=4)}
    assert value(expected, actual, known, parameters) == ""


def test_of_a_tensor_of_small_whole_numbers_no_type_is_said():
    """Numbers that every type holds say nothing of the type that they were computed in."""
    whole = np.random.RandomState(0).randint(0, 9, (4, 100)).astype(float)
    assert "computed in" not in value(whole, whole + (array(4, 100) > 1.5))


def test_a_dropout_needs_a_rate():
    padded = np.where(np.arange(7)[:, None] == 2, 0, TOKENS)
    assert "dropout" not in value(TOKENS, padded)


def test_no_parameter_is_blamed_that_changes_nothing():
    ones = {"gamma": np.ones(16)}
    assert "gamma" not in value(TOKENS, TOKENS + OTHERS, TOKEN, ones)


# --- booleans, integers, complex numbers ----------------------------------------------------------------------------

MASK = A > 0
NUMBERS = np.random.RandomState(1).randint(0, 9, (3, 50))
WAVES = np.fft.fft(TOKENS)


@pytest.mark.parametrize(
    ("expected", "actual", "known", "words"),
    [
        (MASK, ~MASK, {}, "inverted"),
        (NUMBERS > 4, NUMBERS >= 4, {"input 0": NUMBERS - 4}, "input 0 >= 0 instead of > 0"),
        (MASK, MASK | True, {}, "is true everywhere"),
        (MASK, np.roll(MASK, 1, 1), {}, "unexplained"),
        (np.tri(9, dtype=bool), np.tri(9, dtype=bool).T, {}, "rows and columns are exchanged"),
        (MASK, MASK.astype(np.int64), {}, "integers instead of booleans, the same values"),
        (NUMBERS, NUMBERS + 1, {}, "larger by 1"),
        (NUMBERS, NUMBERS.astype(np.int32) - 2, {}, "smaller by 2"),
        (NUMBERS, NUMBERS * 2, {}, "unexplained"),
        (NUMBERS, NUMBERS.astype(float), {}, "real numbers instead of integers, the same values"),
        (NUMBERS, NUMBERS[:, ::-1], {}, "unexplained"),
        (np.array([3, 3]), np.array([4, 4]), {}, "unexplained"),
        (TOKENS.argmax(2), TOKENS.argmin(2), {"input 0": TOKENS}, "argmin over axis 2 of input 0 instead of argmax"),
        (WAVES, WAVES.conj(), {}, "conjugate"),
        (WAVES, WAVES.real + 0j, {}, "the imaginary part is lost"),
        (WAVES, WAVES.real.copy(), {}, "the imaginary part is lost: real numbers"),
        (WAVES, 1j * WAVES.imag, {}, "the real part is lost"),
        (WAVES, WAVES.imag + 1j * WAVES.real, {}, "the real and the imaginary part are exchanged"),
        (WAVES, np.stack([WAVES.real, WAVES.imag], -1), {}, "along a last axis"),
        (WAVES, WAVES / 4, {}, "scaled by 0.25"),
        (WAVES, WAVES * 1j, {}, "scaled by 0+1j"),
        (WAVES, np.abs(WAVES) + 0j, {}, "the magnitude alone"),
        (WAVES, WAVES + np.fft.fft(OTHERS), {}, ""),
    ],
)
def test_numbers_of_other_kinds_have_causes_of_their_own(expected, actual, known, words):
    found = value(expected, actual, known)
    assert words in found if words else found == ""
    if expected.dtype.kind in "biu":
        assert not any(word in found for word in ("permuted", "bfloat16", "scaled", "shifted along", "dropout"))


IDS = np.array([[1, 2, 3, 1], [4, 1, 9, 0]])
TABLE = array(10, 6)


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (np.where((IDS == 1)[..., None], 0, TABLE[IDS]), "the row of padding_idx 1 is returned as zeros"),
        (np.where((IDS == 4)[..., None], 0, TABLE[IDS]), "padding_idx 4 instead of 1"),
        (np.where(np.isin(IDS, (1, 4))[..., None], 0, TABLE[IDS]), ""),
        (TABLE[IDS] * (np.arange(4) > 0)[:, None], ""),
        (np.vstack([TABLE, TABLE[:1]])[IDS + 1], ""),
    ],
)
def test_rows_that_are_looked_up(actual, words):
    found = lookup(Case(TABLE[IDS], actual), IDS, TABLE, 1)
    assert words in found if words else found == ""


def test_rows_beside_the_right_ones():
    ids = IDS % 9
    assert "ids are larger by 1" in lookup(Case(TABLE[ids], TABLE[ids + 1]), ids, TABLE, None)


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (A, A * 0, "no gradient arrives"),
        (A, A * 2, "gradient scaled by 2"),
        (A + B, A, "comes through b is missing (detached)"),
        (A + B, A + B / 2, "comes through b is scaled by 0.5"),
        (A + B, A + C, ""),
        (A + D[:, :, None, None] / 36, A, "comes through d is missing (detached)"),
        (A + D[:, :, None, None] / 36, A + D[:, :, None, None], "comes through d is scaled by 36"),
        (A, A * (np.arange(8) > 2).reshape(8, 1, 1), "no gradient arrives at 0-2 of 8 along axis 1"),
        (A, A.transpose(0, 2, 3, 1).reshape(A.shape), "its axes are taken in the order [0, 2, 3, 1]"),
        (np.array([2.0]), np.array([4.0]), ""),
    ],
)
def test_a_gradient_tells_what_was_detached(expected, actual, words):
    found = explain_gradient(Case(expected, actual, {"b": B, "c": C, "d": D}, 2.0**-21))
    assert words in found if words else found == ""


# --- how fast, and on what --------------------------------------------------------------------------------------------


def test_any_shapes_and_types_are_taken():
    """Nothing raises, whatever is known beside it, and two that have nothing to do with each other explain nothing."""
    random = np.random.RandomState(0)
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, bool, np.complex128)

    def drawn():
        shape = tuple(random.choice([1, 2, 3, 4, 6], random.randint(0, 5)))
        return (3 * np.asarray(random.standard_normal(shape))).astype(kinds[random.randint(len(kinds))])

    for _ in range(300):
        expected = drawn()
        actual = drawn() if random.rand() < 0.3 else (5 * random.standard_normal(expected.shape)).astype(expected.dtype)
        known = {f"input {number}": drawn() for number in range(5)}
        found = explain_value(Case(expected, actual, known, 2.0**-39, {"weight": drawn(), "bias": drawn()}))
        assert found == "" or expected.size < 4 or expected.dtype.kind in "biu" or expected.dtype != actual.dtype, found


def test_a_million_elements_are_refused_by_a_few():
    """By what is looked at, rather than by a clock: no guess on arrays of a million elements is made in full."""
    large = {f"the output of layer{number}": array(8, 128, 32, 32, seed=number) for number in range(3)}
    expected, actual = (array(8, 128, 32, 32, seed=seed) for seed in (8, 9))
    case = Case(expected, actual, large)
    made = []
    for function in ACTIVATIONS.values():
        case.makes_actual(lambda x, f=function: made.append(x.size) or f(x), large["the output of layer0"])
    assert max(made) < 1000
    assert explain_value(case) == ""
