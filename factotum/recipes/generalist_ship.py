"""The checkpoint that is shipped: the evaluated weights, their card, and nothing of training."""

from __future__ import annotations

from factotum.core.checks import UserError
from factotum.core.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from factotum.recipes.evaluate import TASKS
from factotum.recipes.generalist_budget import MOST_BYTES
from factotum.recipes.generalist_card import size_of, write_card
from factotum.recipes.generalist_plan import Plan
from factotum.training.records import checkpoint_hash, read_episodes

FILES = ("config.json", "model.safetensors", "statistics.json", "tokenizer.json")


def ship(plan: Plan) -> None:
    """Copy the evaluated weights to where they are shipped, and write their card.

    Raises:
        UserError: these weights were not evaluated on every task, or their file is too large.
    """
    if not (plan.model / "model.safetensors").is_file():
        raise UserError(f"ship: expected evaluated weights in {plan.model}; run the stage evaluate first")
    require_evaluated(plan)
    if size_of(plan.model) > MOST_BYTES:
        most = f"at most {MOST_BYTES / 1e6:.0f} MB"
        raise UserError(f"ship: expected weights of {most}, got {size_of(plan.model) / 1e6:.1f} MB")
    for name in FILES:
        if (plan.model / name).is_file():
            write_bytes_atomic(plan.ship_to / name, (plan.model / name).read_bytes())
    write_json_atomic(plan.ship_to / TASKS, plan.tasks)
    write_text_atomic(plan.ship_to / "README.md", write_card(plan))
    print(f"shipped: {plan.ship_to} ({size_of(plan.ship_to) / 1e6:.1f} MB of weights)")


def require_evaluated(plan: Plan) -> None:
    """Refuse weights whose table would have holes.

    Raises:
        UserError: naming how many episodes there are of the first task that lacks some.
    """
    version, counts = checkpoint_hash(plan.model), dict.fromkeys(plan.tasks, 0)
    for line in read_episodes(plan.run / "evaluation"):
        if line["agent"] == "gato" and line["checkpoint"] == version and line["task"] in counts:
            counts[line["task"]] += 1
    for task, count in counts.items():
        if count < plan.episodes:
            raise UserError(
                f"ship: expected {plan.episodes} episodes of {task} by the weights of {plan.model}, found {count}; run "
                "the stage evaluate first"
            )
