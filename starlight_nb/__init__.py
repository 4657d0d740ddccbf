"""Star domains of neural network solutions: the paper's experiments, and a library for any PyTorch model.

The names below can be imported from `starlight_nb` itself; each is loaded when it is first used,
so that `import starlight_nb` stays light.
"""
__version__ = "0.2.0"

_NAMES = {
    "data": (
        "Dataset", "Metric", "Split", "Stream", "Task", "classification", "load", "multi_label",
        "next_token", "regression", "segmentation"),
    "models": ("build", "generator", "initialise"),
    "states": ("load_state", "save_state", "state_of"),
    "training": ("Recipe", "train", "train_population"),
    "evaluation": ("evaluate", "interpolate", "refresh_batchnorm"),
    "permutation": ("PermutationSpec", "compose", "infer_spec", "invert", "permute"),
    "matching": ("Matcher", "align", "match_activations", "match_many", "match_weights"),
    "barriers": (
        "accuracy_barrier", "barrier_between", "loss_barrier", "matched_path", "path_losses"),
    "checks": ("check_model",),
    "star": ("StarResult", "train_star"),
    "bma": ("average_predictions", "sample_star_domain", "uncertainty_metrics"),
    "fusion": ("average_aligned", "train_fused_star"),
    "paper": ("reproduce",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name):
    "Import a name's module when the name is first asked for (PEP 562)."
    if name not in _MODULE_OF:
        from difflib import get_close_matches
        near = get_close_matches(name, _MODULE_OF, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    from importlib import import_module
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
