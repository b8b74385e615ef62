"""Order of tokens, local positions, masks, packing and prompts."""

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.data.windows import Shard, fill_row
from factotum.gato.dataset import GatoBatches
from factotum.gato.embedding import PatchEmbedding
from factotum.gato.objective import GatoObjective
from factotum.gato.sequence import join, lay_out
from tests.gato.samples import make_model, open_tasks, small


def first_steps(task, count):
    at = np.arange(count)[None]
    return task.steps(at, np.ones((1, count), bool), np.zeros((1, count), int))


def test_scalar_timestep_is_text_tensors_separator_action(shards, tokenizer, statistics):
    config = small("scalar")
    task = open_tasks(shards, config, tokenizer, statistics)["grid"]
    steps = first_steps(task, 2)
    blocks, segments, targets = lay_out(steps, config, length=64)
    text = int((steps.text[0, 0] != -1).sum())
    kinds = {block.kind for block in blocks}
    assert kinds == {"token", "separator"}
    separators = next(block for block in blocks if block.kind == "separator").where.tolist()
    step = text + 4 + 1 + 1  # three grid ids and the way, separator, action
    assert separators == [text + 4, step + text + 4]
    assert (segments[0] >= 0).sum() == 2 * step
    actions = blocks[-1]
    assert actions.where.tolist() == [step - 1, 2 * step - 1]
    assert actions.local.tolist() == [-1, -1]
    observed = torch.cat([block.local for block in blocks if block.kind == "token" and block.local[0] >= 0])
    assert sorted(observed.tolist()) == sorted(list(range(text + 4)) * 2)
    assert set(targets["where"]) >= {separators[0], separators[1]}


def test_scalar_loss_covers_text_and_actions_but_not_tensors(shards, tokenizer, statistics):
    config = small("scalar", context=200)
    task = open_tasks(shards, config, tokenizer, statistics)["arm"]
    steps = first_steps(task, 3)
    batch = join([("arm", steps)], config)
    text = int((steps.text != -1).sum())
    assert len(batch.target_ids_M) == 3 * 4 + text - 1  # the row's first token has no predecessor
    assert set(batch.target_ids_M.tolist()) == set(steps.actions.ravel()) | set(
        steps.text[steps.text != -1][1:]
    )


def test_fused_timestep_has_a_position_a_modality_and_one_for_its_action(shards, tokenizer, statistics):
    config = small("fused")
    tasks = open_tasks(shards, config, tokenizer, statistics)
    for kind, positions in {"grid": 3, "arm": 3, "pixels": 3}.items():
        batch = join([(kind, first_steps(tasks[kind], 4))], config)
        assert batch.tokens == 4 * positions
        slots = tasks[kind].shard.columns["action"].shape[1]
        assert len(batch.target_ids_M) == 4 * slots
        assert sorted(set(batch.target_where_M.tolist())) == [positions * t + positions - 2 for t in range(4)]


def test_every_target_is_the_token_that_follows(shards, tokenizer, statistics):
    """The id to predict at a position is the id that stands at the next one."""
    config = small("scalar", context=300)
    for kind, task in open_tasks(shards, config, tokenizer, statistics).items():
        batch = join([(kind, first_steps(task, 1 if kind == "picture" else 3))], config)
        placed = {}
        for block in batch.blocks:
            if block.kind == "token":
                placed |= dict(zip(block.where.tolist(), block.values.tolist(), strict=True))
        for where, token in zip(batch.target_where_M.tolist(), batch.target_ids_M.tolist(), strict=True):
            assert placed[where + 1] == token


@pytest.mark.parametrize("tokens", ["scalar", "fused"])
def test_batches_are_pure_functions_of_seed_step_rank(tokens, shards, tokenizer, statistics):
    tasks = list(open_tasks(shards, small(tokens), tokenizer, statistics).values())
    make = lambda seed: GatoBatches(tasks, small(tokens), rows=6, seed=seed)  # noqa: E731
    one, same, other = make(0)(3, 0, 2, 0), make(0)(3, 0, 2, 0), make(0)(3, 1, 2, 0)
    assert torch.equal(one.target_ids_M, same.target_ids_M)
    assert one.task_names == same.task_names
    assert not torch.equal(one.target_ids_M[:20], other.target_ids_M[:20])
    assert (one.rows, one.length) == (6, 96)


@pytest.mark.parametrize("tokens", ["scalar", "fused"])
def test_model_trains_on_mixed_batches_and_gets_better(tokens, shards, tokenizer, statistics):
    config = small(tokens)
    tasks = list(open_tasks(shards, config, tokenizer, statistics).values())
    batches = GatoBatches(tasks, config, rows=8, seed=0)
    model = make_model(tokens, tokenizer, statistics).train()
    model.initialise()
    objective = GatoObjective(config.vocabulary.continuous_start, spread=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss, weight, metrics = objective(model, batches(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert weight == 8
    assert set(metrics) == {f"loss/{task.name}" for task in tasks}
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == [] or tokens == "fused"


def test_packed_rows_do_not_leak(shards, tokenizer, statistics):
    """Logits of an episode are the same alone and behind others in a row."""
    config = small("fused")
    model = make_model("fused", tokenizer, statistics)
    task = open_tasks(shards, config, tokenizer, statistics)["arm"]
    offsets = task.shard.offsets
    second = np.arange(offsets[1], offsets[2])
    both = np.arange(0, offsets[2])
    segments = (both >= offsets[1]).astype(int)[None]
    alone = task.steps(second[None], np.ones((1, len(second)), bool), np.zeros((1, len(second)), int))
    packed = task.steps(both[None], np.ones((1, len(both)), bool), segments)
    with torch.no_grad():
        expected = model(join([("arm", alone)], config))
        got = model(join([("arm", packed)], config))
    torch.testing.assert_close(got[-len(expected) :], expected, atol=1e-5, rtol=1e-4)


def test_prompts_come_from_another_episode_half_of_them_from_its_end():
    offsets = np.arange(0, 1001, 20)
    generator = np.random.default_rng(0)
    prompted = at_end = windows = 0
    for _ in range(3000):
        spans = fill_row(generator, offsets, 12, prompt_share=0.25)
        windows += 1
        if len(spans) == 2 and spans[0].segment == spans[1].segment:
            prompted += 1
            assert spans[0].start // 20 != spans[1].start // 20
            assert spans[0].stop - spans[0].start == 6
            at_end += spans[0].stop % 20 == 0
    assert abs(prompted / windows - 0.25) < 0.03
    assert abs(at_end / prompted - (0.5 + 0.5 / 15)) < 0.06


def test_short_episodes_fill_a_row():
    spans = fill_row(np.random.default_rng(0), np.arange(0, 101), 16, prompt_share=0.0)
    assert len(spans) == 14  # until an eighth of the row is left
    assert len({span.segment for span in spans}) == len(spans)


def test_context_that_holds_no_timestep_is_refused(shards, tokenizer, statistics):
    config = small("scalar", context=8)
    tasks = list(open_tasks(shards, config, tokenizer, statistics).values())
    with pytest.raises(UserError, match="expected a context that holds a timestep"):
        GatoBatches(tasks, config, rows=2, seed=0)


def test_patch_positions_are_means_in_evaluation_and_inside_the_interval_in_training():
    embedding = PatchEmbedding(16, 8, 128, 4)
    with torch.no_grad():
        embedding.rows.weight.copy_(torch.arange(128.0)[:, None].expand(128, 4))
    interval = embedding._interval(torch.arange(5), 5)
    assert interval.tolist() == [[0, 24], [25, 50], [51, 75], [76, 101], [102, 127]]
    embedding.eval()
    means = embedding._position(embedding.rows, interval, 1)[:, 0]
    assert means.tolist() == [12, 38, 63, 89, 115]
    embedding.train()
    drawn = torch.stack([embedding._position(embedding.rows, interval, 1)[0, :, 0] for _ in range(800)])
    assert drawn.min(0).values.tolist() == [0, 25, 51, 76, 102]
    assert drawn.max(0).values.tolist() == [24, 50, 75, 101, 127]


def test_more_patches_than_positions_stay_in_the_table():
    interval = PatchEmbedding(16, 8, 4, 4)._interval(torch.arange(6), 6)
    assert interval.max() <= 3


def test_images_of_any_size_and_channels():
    embedding = PatchEmbedding(16, 8, 128, 4)
    for shape, patches in {(16, 16, 1): 1, (20, 33, 3): 6, (80, 80, 4): 25}.items():
        assert embedding(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, patches, 4)


def test_torn_shard_is_refused(shards, tmp_path):
    import shutil

    shutil.copytree(shards["arm"].folder, tmp_path / "arm")
    file = tmp_path / "arm" / "continuous.npy"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="expected a column"):
        Shard(tmp_path / "arm")
