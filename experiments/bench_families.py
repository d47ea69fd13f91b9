"""`bench --suite=families`: training of recurrent networks, Transformers, VAEs, RBMs, GANs and agents against other libraries.

Settings are those of the recipes named in each case; data are random, so nothing needs to be prepared.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import backend, bench_libraries, bench_torch, bench_torch_images, bench_torch_text, recipe_files
from experiments.bench_measure import Bar, Result, Skipped, against
from experiments.bench_process import job
from experiments.flags import UsageError
from jaxdl.errors import UserError

PAIRS = 9
ENDLESS = 1 << 30
VOCABULARY, CHARACTERS, EXAMPLES, HIDDEN = 65, 1_000_000, 60_000, 500
IMAGE = (28, 28, 1)
Runs = Mapping[str, Callable[[int], None]]


@dataclass(frozen=True)
class Family:
    """Training that two libraries do.

    Attributes:
      title: for people.
      config: makes the settings.
      ours: settings -> our phase.
      theirs: settings -> the other library's ways.
      package: that the other library needs.
      bar: of our speed over theirs.
      unit: what a step is, for people.
      first: steps before the first measurement (a replay memory must be filled).
      recipe: whose number of threads XLA:CPU gets; "": one a core.
    """

    title: str
    config: Callable[[], Any]
    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Runs]
    package: str
    bar: Bar
    unit: str
    first: int = 0
    recipe: str = ""


@functools.cache
def random_text(size: int) -> np.ndarray:
    """Token numbers uint8 [size]."""
    return np.random.default_rng(0).integers(0, VOCABULARY, size, np.uint8)


@functools.cache
def random_images(size: int) -> np.ndarray:
    """uint8 [size, 28, 28, 1]."""
    return np.random.default_rng(0).integers(0, 256, (size, *IMAGE), np.uint8)


def phase(task: Any, source: Any, hyper: Mapping[str, float]) -> Any:
    """An endless phase."""
    from jaxdl.engine.experiment import Phase

    return Phase("train", task, source, steps=ENDLESS, hyper=hyper)


def pictures(batch: int, transform: Any) -> Any:
    """The random images as a source."""
    from jaxdl.data.source import Resident

    return Resident.of({"image": random_images(EXAMPLES)}, batch, shuffle=True, transform=transform)


# --- texts --------------------------------------------------------------------------------------------------------------


def _gpt_config() -> Any:
    from experiments.recipes.char_gpt import VARIANTS

    return VARIANTS["cpu"]


def _lstm_config() -> Any:
    from experiments.recipes.char_lstm import VARIANTS

    return VARIANTS["tiny_shakespeare"]


def _text_phase(network: Callable[[Any, int], Any], config: Any) -> Any:
    from experiments.text import task_for
    from jaxdl.data.text_source import Streams, Windows
    from jaxdl.optimizers import hyper_parameters

    task = task_for(config, network(config, VOCABULARY))
    source = (Streams if task.streams else Windows).of(
        random_text(CHARACTERS), config.train.batch_size, config.data.length
    )
    dropout = {"dropout": config.model.dropout} if "dropout" in task.arguments else {}
    return phase(task, source, {**hyper_parameters(config.optimizer), **dropout})


def _our_gpt(config: Any) -> Any:
    from experiments.recipes.char_gpt import network

    return _text_phase(network, config)


def _our_lstm(config: Any) -> Any:
    from experiments.recipes.char_lstm import network

    return _text_phase(network, config)


def torch_gpt(config: Any) -> Any:
    """The module of a `char_gpt` config."""
    model = config.model
    return bench_torch_text.gpt(VOCABULARY, config.data.length, model.layers, model.heads, model.features)


def torch_lstm(config: Any) -> Any:
    """The module of a `char_lstm` config."""
    model = config.model
    return bench_torch_text.lstm(VOCABULARY, model.features, model.embedding, model.dropout)


def _their_texts(kind: Callable[..., Any], network: Callable[[Any], Any], config: Any) -> Runs:
    text = random_text(CHARACTERS)
    make = functools.partial(network, config)
    shape = (config.train.batch_size, config.data.length)
    return {variant: kind(make, text, *shape, variant) for variant in bench_torch_text.VARIANTS}


# --- images -------------------------------------------------------------------------------------------------------------


def _vae_config() -> Any:
    from experiments.recipes.vae import VARIANTS, ModelConfig

    # plain layers, as other libraries have them ready
    return dataclasses.replace(VARIANTS["mnist"], model=ModelConfig(features=(500, 500), latents=50))


def _our_vae(config: Any) -> Any:
    from jaxdl.data.augment import Transform
    from jaxdl.models.vae import VAE
    from jaxdl.optimizers import hyper_parameters, make_optimizer
    from jaxdl.tasks.reconstruction import variational

    model = VAE(int(np.prod(IMAGE)), config.model.features, config.model.latents)
    task = variational(model, make_optimizer(config.optimizer, config.train.steps), IMAGE)
    return phase(task, pictures(config.train.batch_size, Transform()), hyper_parameters(config.optimizer))


def torch_vae(config: Any) -> Any:
    """The module of a `vae` config."""
    return bench_torch_images.vae(int(np.prod(IMAGE)), config.model.features, config.model.latents)


def _their_vae(config: Any) -> Runs:
    make, images = functools.partial(torch_vae, config), random_images(EXAMPLES)
    variants = bench_torch.VARIANTS[:2]
    return {name: bench_torch_images.Variational(make, images, config.train.batch_size, name) for name in variants}


def _rbm_config() -> Any:
    from experiments.recipes.rbm import VARIANTS

    config = VARIANTS["mnist"]
    # scikit-learn's machine has no offsets and a constant rate
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, hidden=HIDDEN, centred=False),
        optimizer=dataclasses.replace(config.optimizer, schedule="constant"),
    )


def _our_rbm(config: Any) -> Any:
    from jaxdl.data.binary import Threshold
    from jaxdl.models.rbm import RBM
    from jaxdl.optimizers import hyper_parameters, make_optimizer
    from jaxdl.tasks.energy import Energy

    task = Energy(
        stack=(RBM(int(np.prod(IMAGE)), config.model.hidden),),
        optimizer=make_optimizer(config.optimizer, config.train.steps),
        chains=config.train.batch_size,
        k=config.learning.k,
        persistent=config.learning.persistent,
    )
    return phase(task, pictures(config.train.batch_size, Threshold()), hyper_parameters(config.optimizer))


def _their_rbm(config: Any) -> Runs:
    settings = (config.model.hidden, config.train.batch_size, config.optimizer.learning_rate)
    machines = [bench_libraries.Machine(random_images(EXAMPLES), *settings) for _ in range(2)]
    return {"fit": machines[0].fit, "partial_fit": machines[1].partial_fit}


def _dcgan_config() -> Any:
    from experiments.gans import GanConfig
    from experiments.recipes.dcgan import VARIANTS, ModelConfig

    # the paper's layers alone, so that both sides measure convolutions
    found = dataclasses.replace(VARIANTS["mnist"], model=ModelConfig(generator=(64, 32), discriminator=(32, 64)))
    return dataclasses.replace(found, gan=GanConfig(latent=64), train=dataclasses.replace(found.train, batch_size=64))


def _our_dcgan(config: Any) -> Any:
    from experiments.gans import adversarial, hyper
    from jaxdl.data.augment import Transform
    from jaxdl.models.gan import ConvDiscriminator, ConvGenerator

    networks = ConvGenerator(IMAGE, config.model.generator), ConvDiscriminator(config.model.discriminator)
    task = adversarial(config, *networks, IMAGE)
    return phase(task, pictures(config.train.batch_size, Transform()), hyper(config.optimizer, config.gan))


def torch_dcgan(config: Any) -> tuple[Any, Any]:
    """Both modules of a `dcgan` config."""
    generator = bench_torch_images.generator(config.gan.latent, config.model.generator, IMAGE[0])
    return generator, bench_torch_images.discriminator(config.model.discriminator, IMAGE[0])


def _their_dcgan(config: Any) -> Runs:
    make, images = functools.partial(torch_dcgan, config), random_images(EXAMPLES)
    settings = (images, config.train.batch_size, config.gan.latent)
    return {name: bench_torch_images.Game(make, *settings, name) for name in bench_torch.VARIANTS}


# --- agents -------------------------------------------------------------------------------------------------------------


def _ppo_config() -> Any:
    from experiments.recipes.cartpole_ppo import Config

    return Config()


def _dqn_config() -> Any:
    from experiments.recipes.cartpole_dqn import Config

    config = Config()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, features=(64, 64)))


def _our_agent(make: str, config: Any) -> Any:
    from experiments import agents

    return getattr(agents, make)(config).phases[0]


def _their_agent(make: Callable[[Any], Any], config: Any) -> Runs:
    count, items = config.train.batch_size, config.train.batch_size * config.agent.rollout
    found = {}
    for threads in sorted({1, backend.cores()}):
        found[f"{threads} thread{'s' if threads > 1 else ''}"] = bench_libraries.Agent(
            make(config), count, items, threads
        )
    return found


FAMILIES = {
    "torch/char_gpt": Family(
        "GPT of 4 layers, 4 heads, 128 features on 12 x 64 characters (char_gpt:cpu)",
        _gpt_config,
        _our_gpt,
        functools.partial(_their_texts, bench_torch_text.Writer, torch_gpt),
        "torch",
        Bar(1.0, goal=1.15),
        "768 characters",
    ),
    "torch/char_lstm": Family(
        "LSTM of 2 x 256 units on 64 x 64 characters (char_lstm:tiny_shakespeare)",
        _lstm_config,
        _our_lstm,
        functools.partial(_their_texts, bench_torch_text.StreamWriter, torch_lstm),
        "torch",
        Bar(0.7, goal=1.0),
        "4,096 characters",
    ),
    "torch/vae": Family(
        "VAE 784-500-500-50-500-500-784, batch 128",
        _vae_config,
        _our_vae,
        _their_vae,
        "torch",
        Bar(1.7, goal=2.0),
        "128 images",
    ),
    "sklearn/rbm": Family(
        "RBM 784-500 by persistent contrastive divergence, batch 100",
        _rbm_config,
        _our_rbm,
        _their_rbm,
        "sklearn",
        Bar(1.8, goal=2.5),
        "100 images",
    ),
    "torch/dcgan": Family(
        "DCGAN 64-32 on 28x28, batch 64, one step of both networks (dcgan:mnist without hidden layers)",
        _dcgan_config,
        _our_dcgan,
        _their_dcgan,
        "torch",
        Bar(0.9, goal=1.1),
        "64 images",
    ),
    "sb3/ppo": Family(
        "PPO on CartPole, 16 environments x 64 steps, 16 updates (cartpole_ppo)",
        _ppo_config,
        functools.partial(_our_agent, "ppo_experiment"),
        functools.partial(_their_agent, bench_libraries.ppo),
        "stable_baselines3",
        Bar(20.0),
        "1,024 environment steps",
        recipe="cartpole_ppo",
    ),
    "sb3/dqn": Family(
        "DQN on CartPole, 8 environments x 2 steps, 2 updates (cartpole_dqn, 64-64)",
        _dqn_config,
        functools.partial(_our_agent, "dqn_experiment"),
        functools.partial(_their_agent, bench_libraries.dqn),
        "stable_baselines3",
        Bar(8.0),
        "16 environment steps",
        first=100,
        recipe="cartpole_dqn",
    ),
}
CASES = tuple(FAMILIES)
_OTHERS = {"torch": "PyTorch", "sklearn": "scikit-learn", "sb3": "Stable-Baselines3"}


def run(
    cases: tuple[str, ...], repeats: int, seconds: float, clock: str = "wall", traces: str = ""
) -> Iterator[Result | Skipped]:
    """Measures the cases; arguments as `bench_cpu.run`'s, 0 repeats for PAIRS, and one of `bench_measure.CLOCKS`.

    Raises:
      UsageError: processor time on several cores, where a thread that only waits would count.
    """
    if clock == "processor" and backend.cores() > 1:
        raise UsageError("--clock=processor compares one thread: start it on one core (taskset -c 1 python -m ...)")
    return (_in_its_own_process(case, repeats or PAIRS, seconds, clock, traces) for case in cases)


def _in_its_own_process(case: str, repeats: int, seconds: float, clock: str, traces: str) -> Result | Skipped:
    """One case, with as many threads as `train` would have; skipped where it fails or the other library is missing."""
    family = FAMILIES[case]
    if reason := bench_libraries.missing(family.package):
        return Skipped(case, reason)
    threads = recipe_files.load(family.recipe).threads if family.recipe else None
    arguments = {"case": case, "repeats": repeats, "seconds": seconds, "clock": clock, "traces": traces}
    try:
        return Result.from_json(job("bench_families:measured_case", arguments, threads=threads))
    except UserError as error:
        return Skipped(case, str(error))


def measured_case(case: str, **arguments: Any) -> dict[str, Any]:
    """`measured` as a job: plain values."""
    return measured(case, FAMILIES[case], **arguments).to_json()


def measured(case: str, family: Family, repeats: int, seconds: float, clock: str = "wall", traces: str = "") -> Result:
    """One case in this process."""
    from experiments.bench_loops import Engine
    from jaxdl.engine.loop import CHUNK_LARGEST
    from jaxdl.target import cpu_threads

    facts = {"a step": family.unit, "clock": clock, "our threads": cpu_threads()}
    with contextlib.ExitStack() as until_measured:
        if family.package != "sklearn":
            facts["torch"] = until_measured.enter_context(bench_torch.threads(backend.cores()))
        config = family.config()
        ours, theirs = Engine(family.ours(config)), family.theirs(config)
        sides: list[Callable[[int], None]] = [ours, *theirs.values()]
        for side in sides if family.first else ():
            side(family.first)
        return against(
            case,
            f"{family.title}: time of a step of {_OTHERS[case.split('/')[0]]} over that of ours",
            family.bar,
            ours,
            theirs,
            repeats=repeats,
            seconds=seconds,
            most=CHUNK_LARGEST,
            facts=facts,
            clock=clock,
            traces=traces,
        )
