"""Is a spec right? A check of its own: neither the library's proof nor its comparison."""

import copy
import dataclasses
from collections.abc import Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from starlight_nb.permutation import permute

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-2}


def convert(tree, dtype):
    "The same inputs with floating-point numbers of another type."
    if torch.is_tensor(tree):
        if tree.is_complex():
            return tree.to(torch.complex128 if dtype.itemsize == 8 else tree.dtype)
        return tree.to(dtype) if tree.is_floating_point() else tree.clone()
    if isinstance(tree, Mapping):
        return {key: convert(item, dtype) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(convert(item, dtype) for item in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(convert(item, dtype) for item in tree)
    if hasattr(tree, "__dict__") and not callable(tree):
        result = copy.copy(tree)
        for key, item in vars(tree).items():
            vars(result)[key] = convert(item, dtype)
        return result
    return tree


def tensors(tree, path="", depth=6):
    "All tensors in whatever a model returns, by their place."
    if torch.is_tensor(tree):
        return {path: tree.detach().clone()}
    if depth == 0 or tree is None or isinstance(tree, (str, bytes, int, float, complex, type)):
        return {}
    if isinstance(tree, Mapping):
        items = tree.items()
    elif dataclasses.is_dataclass(tree):
        items = [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    elif hasattr(tree, "__dict__") and not isinstance(tree, torch.nn.Module):
        items = vars(tree).items()
    else:
        return {}
    found = {}
    for key, item in items:
        found |= tensors(item, f"{path}.{key}".strip("."), depth - 1)
    return found


def run(model, inputs, seed=1):
    "All tensors that a model returns for one example."
    torch.manual_seed(seed)
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    elif isinstance(inputs, tuple):
        output = model(*inputs)
    else:
        output = model(inputs)
    return tensors(output)


def perturb(model, moved, share, generator):
    "Give all parameters and statistics, and all tensors of `moved`, values near their own."
    statistics = ("running_mean", "running_var")
    buffers = [
        tensor
        for name, tensor in model.named_buffers()
        if name.endswith(statistics) or name in moved
    ]
    for tensor in [*model.parameters(), *buffers]:
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.data)
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            continue
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        if tensor.numel() and tensor.min() > 0:
            tensor.mul_((share * noise).exp())
        else:
            tensor.add_(share * noise * (tensor.abs() + 0.3 * (tensor.abs().mean() or 1)))


class LowestPrecision(TorchDispatchMode):
    "Notes the lowest precision in which anything is computed."

    found = torch.float64

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if not torch.is_tensor(tensor) or not tensor.is_floating_point():
                continue
            if tensor.dtype.itemsize < self.found.itemsize:
                self.found = tensor.dtype
        return result


def deviation(outputs, reference):
    "The largest difference of two tensors, relative to the largest number."
    if outputs.shape != reference.shape:
        return float("inf")
    if not reference.numel() or torch.equal(outputs, reference):
        return 0.0
    if not reference.is_floating_point() and not reference.is_complex():
        return float("inf")
    usual = reference.isfinite()
    if not torch.equal(usual, outputs.isfinite()):
        return float("inf")
    if not usual.any():
        return 0.0
    scale = reference[usual].abs().max() + 1e-12
    return float((outputs[usual] - reference[usual]).abs().max() / scale)


def in_precision(model, dtype):
    "The model with floating-point and complex numbers of this precision."
    return model._apply(lambda tensor: convert(tensor, dtype))


def is_noisy(model, inputs):
    "Does a model return something else when it is run again?"
    first, second = run(model, inputs), run(model, inputs, seed=2)
    main = prediction(first)
    return deviation(second[main], first[main]) > 0


def _prepared(make, spec, inputs, dtype, share):
    "A model with other weights, the inputs, what it returned before and returns now, the type."
    model = in_precision(make().eval(), dtype)
    inputs = [convert(one, dtype) for one in inputs]
    moved = {name for name, axes in spec.axes.items() if any(axes)}
    before = run(model, convert(inputs[0], dtype))
    perturb(model, moved, share, torch.Generator().manual_seed(3))
    reference = [run(model, convert(one, dtype)) for one in inputs]
    return model, inputs, before, reference, dtype


def prepared(make, spec, inputs):
    "As `_prepared`, in double precision and with large changes where the model allows it."
    for dtype in (torch.float64, torch.float32):
        for share in (0.3, 0.05):
            try:
                result = _prepared(make, spec, inputs, dtype, share)
            except Exception:
                if dtype == torch.float32 and share < 0.3:
                    raise
                continue
            if result[3][0][prediction(result[3][0])].isfinite().all():
                return result
    return result


def prediction(outputs):
    "The name of the first output, or of the logits."
    return next((name for name in outputs if name.split(".")[-1] == "logits"), next(iter(outputs)))


def lowest_precision(model, inputs):
    "The lowest precision in which anything is computed."
    with LowestPrecision() as precision:
        run(model, inputs)
    return precision.found


@torch.no_grad()
def check(make, spec, inputs, seed=0):
    """What a random permutation of `spec` changes in a model that `make` returns: `first`, the
    relative difference of the prediction, `others`, that of other outputs that differ, `tolerance`,
    `vacuous` where other weights give the same prediction, and `noisy` where it is another one in
    each run."""
    model, inputs, before, reference, dtype = prepared(make, spec, inputs)
    tolerance = TOLERANCES[lowest_precision(model, convert(inputs[0], dtype))]
    order = spec.random(torch.Generator().manual_seed(seed))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(permute(spec, order, state))
    first, others = 0.0, {}
    for one, expected in zip(inputs, reference, strict=True):
        outputs, main = run(model, convert(one, dtype)), prediction(expected)
        for name in expected:
            size = deviation(outputs[name], expected[name]) if name in outputs else float("inf")
            if name == main:
                first = max(first, size)
            elif size > tolerance:
                others[name] = max(size, others.get(name, 0))
    main = prediction(before)
    vacuous = not before[main].numel() or torch.equal(before[main], reference[0][main])
    return {
        "first": first,
        "others": others,
        "tolerance": tolerance,
        "vacuous": vacuous,
        "noisy": is_noisy(model, convert(inputs[0], dtype)),
    }
