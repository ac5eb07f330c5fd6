"""The page of `target_prop_questions`: every question, its numbers, and the answer that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

Metrics = Mapping[str, Mapping[str, Any]]
Part = tuple[str, str, str]
"""A question, its table, its answer."""
BOUND = "log-likelihood, lower bound"


def page(head: str, stacks: Metrics, others: Mapping[str, Metrics], top: int) -> str:
    """The questions in their order, those of other experiments where these have been run; `top` units has the first stack."""
    parts = _of_stacks(stacks, top)
    for name, answer in ANSWERS.items():
        if name in others:
            parts.append(answer(others[name]))
    parts.sort(key=lambda part: _number(part[0]))
    text = "\n\n".join(f"## {question}\n\n{rows}\n\n{answer}" for question, rows, answer in parts)
    return f"# Questions about target propagation, measured\n\n{head}\n\n{text}\n"


def table(metrics: Metrics, column: str, **names: str) -> str:
    """A row for each metric of these names that there is."""
    lines = [f"| {text} | {_with_error(metrics[name])} |" for name, text in names.items() if name in metrics]
    return "\n".join([f"| | {column} |", "| --- | --- |", *lines])


def gap(metrics: Metrics, first: str, second: str) -> str:
    """How much higher the first is."""
    difference = metrics[first]["value"] - metrics[second]["value"]
    return f"{abs(difference):.1f} nats {'higher' if difference >= 0 else 'lower'}"


def _with_error(metric: Mapping[str, Any]) -> str:
    error = metric["std_error"]
    return f"{metric['value']:.2f}" + (f" ± {error:.2f}" if error is not None else "")


def _number(question: str) -> int:
    """Those without a number stand last."""
    number = question.partition(".")[0]
    return int(number) if number.isdecimal() else 99


def _of_stacks(stacks: Metrics, top: int) -> list[Part]:
    higher, rows = partial(gap, stacks), partial(table, stacks, BOUND)
    parts = [
        (
            "1. Do the level-wise targets help?",
            rows(
                match_0="no matching target",
                **{"match_0.3": "weight 0.3"},
                base="weight 1",
                match_3="weight 3",
            ),
            f"The matching target at the weight that the learned error of the reconstruction gives it is "
            f"{higher('base', 'match_0')} than none, {higher('base', 'match_0.3')} than at 0.3 of it, and "
            f"{higher('base', 'match_3')} than at 3 times it.",
        ),
        (
            "2. Can back-propagation between levels be avoided altogether?",
            rows(
                base="target propagation, each layer's pair as one unit",
                base_backprop="back-propagation of the bound",
                algorithm1="Algorithm 1, gradients inside its cost",
                recirculation="target propagation, encoders by recirculation",
            ),
            f"Between levels: target propagation is {higher('base', 'base_backprop')} than back-propagation. "
            f"Within a pair, plain recirculation is {higher('recirculation', 'base')}. "
            f"Algorithm 1 is {higher('algorithm1', 'base')}.",
        ),
        (
            "Where should targets come from? (section 2.2.5)",
            rows(
                base="the layer above, from the draw that the layer learns from",
                noise_free="the layer above, noise-free",
                long_loop="the top, from the draw",
                long_loop_noise_free_difference="the top, noise-free, difference correction",
            ),
            f"Than targets from the draw and the layer above, noise-free ones are {higher('noise_free', 'base')}, and those of "
            f"the long loop {higher('long_loop', 'base')}.",
        ),
        (
            "Does the delta rule with moving averages do? (section 8)",
            rows(
                base="one pass up and down",
                passes_3="three passes, each with its own targets",
                moving_average="three passes, moving averages over them (trace 0.5)",
            ),
            f"Three passes are {higher('passes_3', 'base')} than one; with reconstructions as targets of the codes of earlier "
            f"passes too, and those as their targets, it is {higher('moving_average', 'passes_3')} than that.",
        ),
        (
            "4. Which top level?",
            rows(
                base="standard Gaussian",
                full_gaussian="full Gaussian",
                binary_top="factorial binary units",
            ),
            f"A full Gaussian is {higher('full_gaussian', 'base')} than the standard one, as many binary units "
            f"{higher('binary_top', 'base')}.",
        ),
        (
            "10. Encoder or decoder as MLP, neither, or both?",
            rows(
                base="both, linear codes",
                affine="neither, tanh codes",
                base_backprop="both, back-propagation",
                affine_backprop="neither, back-propagation",
            ),
            f"Both are {higher('base', 'affine')} than neither; by back-propagation, "
            f"{higher('base_backprop', 'affine_backprop')}.",
        ),
        (
            "Encoders by optimisation (Eq. 20)",
            table(
                stacks,
                "nats of test images, given h_1",
                reconstruction_network="h_1 of the first stack's encoder",
                reconstruction_optimum="the best h_1",
            ),
            f"The best h_1 makes test images {higher('reconstruction_optimum', 'reconstruction_network')} than that of the "
            f"encoder; to find it takes {stacks['optimum_over_network_seconds']['value']:.0f} times as long.",
        ),
        (
            "Decoders that are the exact inverses of their encoders (section 6)",
            rows(
                square="two affine maps a layer",
                triangular="W = L Lᵀ, inverted by substitution",
                orthogonal="orthogonal W, inverted by Wᵀ",
            ),
            f"Tanh layers of one size: triangular maps are {higher('triangular', 'square')} than decoders of their own, "
            f"orthogonal ones {higher('orthogonal', 'square')}.",
        ),
        (
            "11. Is corruption necessary in the lower layers?",
            rows(
                base="noise of every layer learned",
                **{"lower_noise_0.1": "0.1 below the top, learned there", "lower_noise_0.02": "0.02 below the top"},
                contract="noise of every layer learned, contractive targets too",
            ),
            f"With next to no noise (0.02) below the top it is {higher('lower_noise_0.02', 'base')} than with learned noise, "
            f"with 0.1 {higher('lower_noise_0.1', 'base')}. Contractive targets, beside learned noise: "
            f"{higher('contract', 'base')}.",
        ),
        (
            "Depth",
            rows(
                depth_1="1 layer, target propagation",
                depth_1_backprop="1 layer, back-propagation",
                base="3 layers, target propagation",
                base_backprop="3 layers, back-propagation",
                depth_6="6 layers, target propagation",
                depth_6_backprop="6 layers, back-propagation",
            ),
            f"Three layers are {higher('base', 'depth_1')} than one and {higher('base', 'depth_6')} than six; at six "
            f"layers target propagation is {higher('depth_6', 'depth_6_backprop')} than back-propagation.",
        ),
    ]
    used = stacks["top_dimensions_used"]["value"]
    signal = (
        "9. How to learn to tell noise from signal at the top?",
        table(stacks, "units", top_dimensions_used="of the first stack's top with a rate above 0.05 nats"),
        f"The spectrum of the top's learned noise tells: {used:.0f} of {top} units carry signal.",
    )
    return [*parts, signal]


def _top_chain(metrics: Metrics) -> Part:
    """Question 7."""
    ways = {"plain": "reconstruction", "walk_back": "walk-back", "nearest": "nearest neighbour"}
    noises = [name.partition("_")[2] for name in metrics if name.startswith("plain_") and name.endswith("_csl")]
    noises = [noise.removesuffix("_csl") for noise in noises]
    names = {"prior": "the stack's explicit prior", "own_chain": "the stack's own chain"}
    names |= {f"{way}_{noise}": f"{text}, σ = {noise}" for noise in noises for way, text in ways.items()}
    lines = ["| | CSL, lower bound | a step of the chain |", "| --- | --- | --- |"]
    for name, text in names.items():
        step = f"{metrics[f'{name}_step']['value']:.2f}" if f"{name}_step" in metrics else ""
        lines.append(f"| {text} | {_with_error(metrics[f'{name}_csl'])} | {step} |")
    best = {way: max(noises, key=lambda noise, w=way: metrics[f"{w}_{noise}_csl"]["value"]) for way in ways}
    score = {way: f"{way}_{best[way]}_csl" for way in ways}
    step = {way: metrics[f"{way}_{best[way]}_step"]["value"] for way in ways}
    return (
        "7. Is nearest-neighbour reconstruction yielding better models?",
        "\n".join(lines),
        f"Each at its best noise: nearest-neighbour reconstruction is {gap(metrics, score['nearest'], score['plain'])} than the "
        f"plain one and {gap(metrics, score['nearest'], score['walk_back'])} than walk-back, with steps of "
        f"{step['nearest']:.2f} where the plain one has {step['plain']:.2f} and walk-back {step['walk_back']:.2f} "
        f"(1: as far as an independent state).",
    )


def _halves(metrics: Metrics) -> Part:
    """Question 12."""
    methods = {"one_pass": "one pass with the mask", "map": "Algorithm 6", "chain_mean_1": "the mean of its chain"}
    names = {
        f"{stack}_{method}_nats": f"{text}{', trained by walk-back' * (stack == 'walk')}"
        for stack in ("base", "walk")
        for method, text in methods.items()
    }
    nats = {name: metrics[f"base_{name}_nats"]["value"] for name in methods}
    misread = {name: metrics[f"base_{name}_misread"]["value"] for name in methods}
    return (
        "12. Is the missingness input adequate, or would MCMC be more accurate?",
        table(metrics, "nats that the missing half of a digit costs", **names),
        f"The mask is adequate: one pass costs {nats['one_pass']:.1f} nats and is misread in {misread['one_pass']:.1f} % of the "
        f"cases, the end of Algorithm 6 {nats['map']:.1f} and {misread['map']:.1f} %, the mean of its chain "
        f"{nats['chain_mean_1']:.1f} and {misread['chain_mean_1']:.1f} %."
        if nats["one_pass"] <= min(nats.values())
        else f"The mask is not: one pass costs {nats['one_pass']:.1f} nats, the best {min(nats.values()):.1f}.",
    )


def _image_label(metrics: Metrics) -> Part:
    """Question 12 on another pair."""
    methods = {"one_pass": "one pass with the mask", "map": "Algorithm 6", "chain_1_mean": "the mean of its chain"}
    error = {name: metrics[f"base_label_error_{name}"]["value"] for name in methods}
    images = metrics["base_image_spread_chain_1"]["value"], metrics["image_spread_test_images"]["value"]
    return (
        "12. The same for labels from images, and images from labels",
        table(metrics, "labels missed, %", **{f"base_label_error_{name}": text for name, text in methods.items()}),
        f"One pass misses {error['one_pass']:.1f} % of the labels, Algorithm 6 {error['map']:.1f} %, the chain's mean "
        f"{error['chain_1_mean']:.1f} %. Asked for images of a class, only the chain gives different ones: their mean squared "
        f"distance is {images[0]:.3f} a pixel where that of test images is {images[1]:.3f}, and "
        f"{metrics['base_image_read_as_asked_chain_1']['value']:.1f} % of them are read as what was asked for.",
    )


def _recurrent(metrics: Metrics) -> Part:
    """Question 13."""
    ways = {
        "target_prop": "target propagation",
        "backprop": "back-propagation through time",
        "then_backprop": "the first, then the second",
        "no_difference": "targets without the difference correction",
        "long_loop_targets": "long loops too, and targets from them",
    }
    found = [name for name in metrics if name.startswith("test_error_") and "_seed_" not in name]
    split = {name: name.removeprefix("test_error_").split("_length_") for name in found}
    names = {name: f"{ways[way]}, {length} steps" for name, (way, length) in split.items()}
    longest = max(int(length) for way, length in split.values() if way == "target_prop")
    value = {
        way: metrics[f"test_error_{way}_length_{longest}"]["value"]
        for way in ("target_prop", "backprop", "then_backprop")
    }
    return (
        "13. Can a recurrent network capture longer-term dependencies by target propagation, then by back-propagation?",
        table(metrics, "temporal order, test error, %", **names),
        f"Over {longest} steps target propagation ends at {value['target_prop']:.1f} %, back-propagation through time at "
        f"{value['backprop']:.1f} %, one after the other, each with half of the sequences, at {value['then_backprop']:.1f} %.",
    )


ANSWERS: dict[str, Callable[[Metrics], Part]] = {
    "target_prop_top_chain": _top_chain,
    "target_prop_halves": _halves,
    "target_prop_image_label": _image_label,
    "target_prop_recurrent": _recurrent,
}
"""Experiments of their own that answer a question."""
