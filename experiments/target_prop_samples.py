"""Are the digits that the stack of `target_prop_mnist` draws digits, and all ten of them?

A classifier, trained on MNIST's images with noise, reads 10,000 independent draws (their means, before pixels are drawn) and the
last states of chains up and down the stack: the shares of the classes, and of images of which it is sure (probability
above 0.9), beside those of test images; the entropy of the shares counts the classes, 10 if all are equally frequent. Parzen
windows of the same 10,000 draws, for historic tables.

    python -m experiments.target_prop_samples            # after experiments.target_prop_mnist, whose run it takes up
    python -m experiments.target_prop_samples --smoke    # the same code on `digits`, in seconds
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from experiments import target_prop_mnist
from experiments.results import FOLDER, Published, Result
from genmodels import Categorical
from genmodels.data import DataSet, load
from genmodels.data.labelled import all_labelled
from genmodels.fit import Settings, fit
from genmodels.interface import default_generator
from genmodels.labelled_stack import LabelledStack
from genmodels.likelihood import best_bandwidth, chain_fields, parzen
from genmodels.objectives import back_propagation
from genmodels.stack_chain import StackChain

PUBLISHED = {"parzen": target_prop_mnist.PUBLISHED["parzen"], "classes": Published(10, "all of them")}


@dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    stack: target_prop_mnist.Config = target_prop_mnist.Config()  # noqa: RUF009 (frozen)
    draws: int = 10_000
    chains: int = 1000
    steps: int = 100
    classifier: tuple[int, ...] = (300, 300)
    classifier_epochs: int = 5
    input_noise: float = 0.2
    seed: int = 0


SMOKE = Config(stack=target_prop_mnist.SMOKE, draws=50, chains=10, steps=2, classifier=(7,), classifier_epochs=1)


def classifier(config: Config, data: DataSet, out: Path) -> LabelledStack:
    """Who reads the digits; by back-propagation."""
    generator = default_generator(config.seed)
    model = LabelledStack(data.num_features, config.classifier, 100, Categorical(1, 10), generator=generator)
    model.initialise_from_data(data.train.fixed())
    settings = Settings(
        epochs=config.classifier_epochs,
        batch_size=100,
        optimizer="Adam",
        optimizer_options={"fused": True},
        learning_rate=1e-3,
        seed=config.seed,
        device="cpu",
    )
    objective = back_propagation(model, input_noise=config.input_noise)
    fit(model, objective, all_labelled(data.train, 10), settings, out=out)
    return model.requires_grad_(False)


def read(result: Result, name: str, judge: LabelledStack, images: Tensor) -> None:
    """Add the shares of classes and of sure readings among images."""
    probability, found = judge.label.mean(judge.predict(images)).max(1)
    shares = torch.bincount(found, minlength=10) / len(found)
    for digit, share in enumerate(shares.tolist()):
        error = (share * (1 - share) / len(found)) ** 0.5
        result.add_number(f"{name}_share_of_{digit}", 100 * share, 100 * error)
    result.add_number(f"{name}_sure", 100 * (probability > 0.9).float().mean().item())
    result.add_number(f"{name}_classes_by_entropy", torch.exp(torch.special.entr(shares).sum()).item())


def main(
    smoke: bool = False,
    out: Path = Path("runs/target_prop_samples"),
    stack_out: Path = Path("runs/target_prop_mnist"),
    results: Path = FOLDER,
) -> Path:
    """Read the draws of the first seed's stack, then write the result file.

    Args:
        smoke: run the same code on a tiny problem, in seconds.
        out: folder for the classifier's run.
        stack_out: the folder of `target_prop_mnist`; what is not there is trained.
        results: folder for the result file.
    """
    config = SMOKE if smoke else Config()
    data, grey = load(config.stack.data), load(config.stack.grey_data)
    command = "python -m experiments.target_prop_samples"
    description = f"{config.draws} draws and {config.chains} chains of {config.steps} steps"
    result = Result("target_prop_samples", command, description, (config.seed,), config, PUBLISHED)
    started = time.perf_counter()
    seed = config.seed
    model, _ = target_prop_mnist.train(config.stack, "target_prop", seed, data, stack_out / f"target_prop_seed{seed}")
    judge = classifier(config, grey, out / "classifier")
    generator = default_generator(2000 + seed)
    draws = model.observed_mean(model.sample(config.draws, generator=generator)[1:])
    start = data.train.fixed()[: config.chains]
    states = chain_fields(StackChain(model), start, 1, burn_in=config.steps, generator=generator)
    assert grey.test.labels is not None
    wrong = judge.predict(grey.test.fixed()).argmax(1) != grey.test.labels
    result.add_number("classifier_test_error", 100 * wrong.float().mean().item())
    read(result, "test_images", judge, grey.test.fixed())
    read(result, "draws", judge, draws)
    read(result, "chain", judge, model.observed.mean(states[-1]))
    shares = [result.metrics[f"draws_share_of_{digit}"]["value"] for digit in range(10)]
    result.add_number("classes", float(sum(share > 1 for share in shares)))
    bandwidth = best_bandwidth(grey.valid.fixed()[:1000], draws, config.stack.bandwidths)
    result.add("parzen", parzen(grey.test.fixed(), draws, bandwidth))
    result.seconds = time.perf_counter() - started
    return result.write(results)


if __name__ == "__main__":
    print(tyro.cli(main))
