"""Train the Stable-Baselines3 teachers of `distill_any.py`: OUT/<algorithm>-<world>.zip and a JSON of how it was made.

Needs that library, which Factotum itself never does; an environment apart serves:
`python3.11 -m venv sb3-env && sb3-env/bin/pip install stable-baselines3==2.9.2 'gymnasium[box2d]'`.

    sb3-env/bin/python benchmarks/train_stable_baselines.py ppo CartPole-v1 --out runs/stable-baselines

Settings are those of RL Baselines3 Zoo, but for what is named in `ZOO`. A model that is there is left as it is.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

ZOO: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "CartPole-v1"): {
        "steps": 100_000, "environments": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98,
        "n_epochs": 20, "ent_coef": 0.0, "learning_rate": 1e-3, "clip_range": 0.2, "decay": True,
    },
    ("ppo", "LunarLander-v3"): {
        "steps": 1_000_000, "environments": 16, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98,
        "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01,
    },
    ("dqn", "CartPole-v1"): {
        "steps": 50_000, "environments": 1, "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000,
        "learning_starts": 1000, "gamma": 0.99, "target_update_interval": 10, "train_freq": 256,
        "gradient_steps": 128, "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
        "policy_kwargs": {"net_arch": [256, 256]},
    },
    ("dqn", "LunarLander-v3"): {
        "steps": 200_000, "environments": 1, "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000,
        "learning_starts": 1000, "gamma": 0.99, "target_update_interval": 250, "train_freq": 4,
        "gradient_steps": -1, "exploration_fraction": 0.12, "exploration_final_eps": 0.1,
        "policy_kwargs": {"net_arch": [256, 256]},
    },
}  # fmt: skip
"""RL Baselines3 Zoo's settings (its LunarLander is v2's); DQN on LunarLander has twice the steps of there."""

EPISODES = 100


def main() -> None:
    """Train one teacher, as the command line says."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("algorithm", choices=sorted({algorithm for algorithm, _ in ZOO}))
    parser.add_argument("world", choices=sorted({world for _, world in ZOO}))
    parser.add_argument("--out", type=Path, default=Path("runs/stable-baselines"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = args.out / f"{args.algorithm}-{args.world}.zip"
    if path.is_file():
        print(f"{path} is there")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    made = train(args.algorithm, args.world, args.seed, path)
    path.with_suffix(".json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(f"{path}: {made['score']:.1f} ± {made['deviation']:.1f} over {EPISODES} episodes")


def train(algorithm: str, world: str, seed: int, path: Path) -> dict[str, Any]:
    """Train, save, and play by Stable-Baselines3 itself; how it was made."""
    import gymnasium
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    options = dict(ZOO[algorithm, world])
    steps, environments = options.pop("steps"), options.pop("environments")
    if options.pop("decay", False):  # along a line to 0
        for name in ("learning_rate", "clip_range"):
            highest = options[name]
            options[name] = lambda left, highest=highest: left * highest
    started = time.perf_counter()
    model = getattr(sb3, algorithm.upper())(
        "MlpPolicy", make_vec_env(world, environments, seed=seed), seed=seed, device="cpu", **options
    )
    model.learn(steps)
    model.save(path)
    score, deviation = evaluate_policy(model, make_vec_env(world, 8, seed=seed + 10_000), EPISODES)
    return {
        "algorithm": algorithm,
        "world": world,
        "settings": ZOO[algorithm, world],
        "seed": seed,
        "score": float(score),
        "deviation": float(deviation),
        "episodes": EPISODES,
        "parameters": sum(one.numel() for one in model.policy.parameters()),
        "seconds": time.perf_counter() - started,
        "versions": {
            "stable-baselines3": sb3.__version__,
            "gymnasium": gymnasium.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


if __name__ == "__main__":
    main()
