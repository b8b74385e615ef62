"""Anything that says what it would do is a teacher, and is checked."""

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.distill.config import mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import save_policy
from factotum.distill.teacher import TEMPERATURE, CheckedTeacher, Teacher, as_teacher, require_fits
from factotum.losses.distillation import policy_kl

TWO = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)


def network(**other):
    torch.manual_seed(0)
    return PolicyNetwork(mlp(3, (16,), other.pop("actions", 2), **other))


def observations(count=8):
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def check_network(teacher, model, task=None):
    given = observations()
    assert isinstance(teacher, Teacher)
    label = teacher.label(given)
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, model(torch.from_numpy(given), task).detach().numpy())


@pytest.mark.parametrize("outputs", ["q", "logits", "gaussian", "continuous"])
def test_a_network_of_ours(outputs):
    model = network(outputs=outputs)
    teacher = as_teacher(model)
    assert (teacher.kind, teacher.actions) == (outputs, 2)
    check_network(teacher, model)


def test_a_folder_of_ours_or_of_a_run(tmp_path):
    model = network(actions={"a": 2, "b": 4}, outputs="logits")
    save_policy(model, tmp_path / "run" / "policy")
    for path in (tmp_path / "run" / "policy", tmp_path / "run", str(tmp_path / "run")):
        teacher = as_teacher(path, task="b")
        assert (teacher.kind, teacher.actions) == ("logits", 4)
        check_network(teacher, model, "b")
    with pytest.raises(UserError, match="task: expected one of a, b, got none"):
        as_teacher(tmp_path / "run")


def test_a_torch_module_gets_tensors_and_no_gradients():
    layer = torch.nn.Linear(3, 2)
    teacher = as_teacher(layer, kind="q", actions=2)
    given = observations()
    np.testing.assert_allclose(teacher.label(given), layer(torch.from_numpy(given)).detach(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["q", "logits", "gaussian", "continuous"])
@pytest.mark.parametrize("form", [np.asarray, torch.tensor, np.ndarray.tolist, np.float64])
def test_a_function_of_numbers(kind, form):
    label = as_teacher(lambda x: form(TWO), kind=kind, actions=2).label(observations(2))
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, TWO)


def test_probabilities_become_logits_of_the_same_policy():
    label = as_teacher(lambda x: TWO, kind="probabilities", actions=2).label(observations(2))
    policy = torch.from_numpy(label).div(TEMPERATURE["probabilities"]).softmax(1)
    np.testing.assert_allclose(policy, TWO, atol=1e-6)
    assert np.isfinite(label).all(), "a probability of 0 has a finite label"


@pytest.mark.parametrize("answer", [np.array([2, 0]), [2, 0], torch.tensor([2, 0]), np.array([2.0, 0.0])])
def test_actions_become_rows_of_one_hot(answer):
    label = as_teacher(lambda x: answer, kind="actions", actions=3).label(observations(2))
    assert label.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_actions_at_their_temperature_are_all_but_certain():
    label = torch.from_numpy(as_teacher(lambda x: [2], kind="actions", actions=3).label(observations(1)))
    student = torch.tensor([[0.0, 0.0, 1.0]])
    kl = policy_kl(student, label, TEMPERATURE["actions"])
    assert kl.item() == pytest.approx(-float(student.log_softmax(1)[0, 2]), rel=1e-5), "which is the NLL"


def test_a_teacher_stays_what_it_is():
    teacher = CheckedTeacher(lambda x: TWO, "q", 2)
    assert as_teacher(teacher) is teacher
    assert as_teacher(teacher, kind="q", actions=2) is teacher


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (TWO[:1], "q", r"wrong: expected q of shape \(2, 2\), got \(1, 2\)"),
        (np.zeros((2, 3)), "logits", r"expected logits of shape \(2, 2\), got \(2, 3\)"),
        (np.zeros(2), "q", r"got \(2,\)"),
        (np.array([[0.0, np.nan], [0.0, 0.0]]), "q", r"q of wrong: expected finite numbers, got nan at index \(0, 1\)"),
        (np.array([[0.0, 0.0], [np.inf, 0.0]]), "continuous", "expected finite numbers, got inf"),
        (np.array([[1e39, 0.0], [0.0, 0.0]]), "q", "expected finite numbers"),
        (np.array([[0.5, 0.6], [1.0, 0.0]]), "probabilities", "expected probabilities from 0 on that sum to 1"),
        (np.array([[1.5, -0.5], [1.0, 0.0]]), "probabilities", "expected probabilities"),
        (np.array([0, 2]), "actions", "expected actions among 0 to 1, got 2"),
        (np.array([0, -1]), "actions", "expected actions among 0 to 1, got -1"),
        (np.array([0, 0.5]), "actions", "expected actions among 0 to 1, got 0.5"),
        (np.array([0.0, np.nan]), "actions", "expected actions among 0 to 1, got nan"),
    ],
)  # fmt: skip
def test_answers_that_are_wrong_are_refused(answer, kind, said):
    def wrong(observation_B):
        return answer

    with pytest.raises(UserError, match=said):
        as_teacher(wrong, kind=kind, actions=2).label(observations(2))


@pytest.mark.parametrize(
    ("anything", "options", "said"),
    [
        (lambda x: x, {"kind": "q"}, r"expected kind \(q, logits, .*\) and actions, .* got q and None"),
        (lambda x: x, {"actions": 2}, "which a function does not tell, got None and 2"),
        (lambda x: x, {"kind": "values", "actions": 2}, "unknown kind of teacher 'values'"),
        (lambda x: x, {"kind": "q", "actions": 0}, "expected a number of actions that suits 'q', got 0"),
        (
            lambda x: x,
            {"kind": "gaussian", "actions": 3},
            "expected a number of actions that suits 'gaussian'",
        ),
        (7, {"kind": "q", "actions": 2}, "teacher: expected a network, a path or a function, got int"),
        ("nowhere", {}, r"teacher: expected a folder or a .zip archive, got nowhere"),
        ("nowhere.zip", {}, "expected an archive nowhere.zip, found none"),
        (network(), {"kind": "logits"}, "PolicyNetwork: expected kind logits, got q"),
        (network(), {"actions": 3}, "PolicyNetwork: expected actions 3, got 2"),
    ],
)
def test_what_is_no_teacher_is_refused(anything, options, said):
    with pytest.raises(UserError, match=said):
        as_teacher(anything, **options)


def test_a_teacher_that_does_not_fit_a_world_is_refused_before_it_plays():
    q, gaussian = as_teacher(network()), as_teacher(network(outputs="gaussian", actions=4))
    require_fits(q, "world", (3,), 2)
    require_fits(gaussian, "world", (3,), 2, continuous=True)
    shaped = CheckedTeacher(lambda x: TWO, "q", 2, observation_shape=(4,))
    for teacher, continuous, said in (
        (q, True, "world: expected a teacher with 2 continuous actions, got q with 2 actions"),
        (gaussian, False, "world: expected a teacher with 2 discrete actions, got gaussian with 4 actions"),
        (shaped, False, r"world: expected a teacher of observations \(3,\), got one of \(4,\)"),
    ):
        with pytest.raises(UserError, match=said):
            require_fits(teacher, "world", (3,), 2, continuous=continuous)
    with pytest.raises(UserError, match="expected a teacher with 3 discrete actions"):
        require_fits(q, "world", (3,), 3)
    with pytest.raises(UserError, match=r"expected observations of shape \(B, 4,\), got \(2, 3\)"):
        shaped.label(observations(2))


def test_a_network_stays_where_it_is_unless_it_is_told_to_move():
    model = network().to("meta")
    as_teacher(model)
    assert model.device.type == "meta"
    module = torch.nn.Linear(3, 2)
    as_teacher(module, kind="q", actions=2, device="meta")
    assert module.weight.device.type == "meta"


def test_teachers_know_how_much_they_have_learnt_where_that_can_be_told():
    net = network()
    assert as_teacher(net).parameters == net.parameter_count
    assert as_teacher(torch.nn.Linear(3, 2), kind="q", actions=2).parameters == 3 * 2 + 2
    assert as_teacher(lambda x: x, kind="q", actions=2).parameters is None
