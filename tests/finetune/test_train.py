"""Training: the same result however it is interrupted or divided, and what it changes."""

import numpy as np
import pytest
import torch
from planted import CONFIG, INDEX

from swift_bids import SwiFT
from swift_bids.base.errors import InputError, UsageError
from swift_bids.finetune.classifier import Classifier, Task, mean_embedding
from swift_bids.finetune.examples import EmbeddedExamples, Examples
from swift_bids.finetune.settings import TrainingSettings
from swift_bids.finetune.splits import early_stopping_split
from swift_bids.finetune.train import learning_rate, predict, stratified_batches, train
from swift_bids.group.columns import Target
from swift_bids.group.kept_runs import KeptRun
from swift_bids.group.probes.design import Design

N = 8
SEX = Target("sex", ("F", "M"), np.arange(N) % 2.0)
AGE = Target("age", (), np.linspace(20, 60, N))
FITTED, VALIDATION = np.arange(6), np.arange(6, N)


class Matrix:
    """A kept matrix in memory."""

    index, background = INDEX, 0.0

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, volumes):
        return self.values[volumes]


@pytest.fixture(scope="module")
def examples():
    """Two chunks of each of 8 participants."""
    rng = np.random.default_rng(0)
    labels = [f"sub-{number}" for number in range(N)]
    matrices = [rng.standard_normal((40, INDEX.size)).astype(np.float16) for _ in labels]
    runs = [KeptRun(s, s, Matrix(m), (0, 20), 20) for s, m in zip(labels, matrices)]
    return Examples(runs, labels, "cpu")


def make(task=None, freeze="none", **options):
    torch.manual_seed(0)
    network = SwiFT(**CONFIG | options)
    embeddings = np.random.default_rng(1).standard_normal((6, 96))
    task = task or Task.of(SEX, FITTED)
    centre, scale = embeddings.mean(axis=0), embeddings.std(axis=0)
    return Classifier(network, task.n_outputs, centre, scale, freeze), task


def run(examples, checkpoint, settings, task=None, freeze="none", **options):
    classifier, task = make(task, freeze, **options)
    if freeze == "backbone":
        examples = frozen(examples, classifier)
    progress = train(
        classifier, task, examples, FITTED, VALIDATION, settings, checkpoint, {"epochs": 0}
    )
    return classifier, progress


def frozen(examples, classifier):
    network = classifier.network.eval()
    return EmbeddedExamples(examples, lambda volumes: mean_embedding(network, volumes), 2)


def parameters(classifier):
    return {name: value.numpy().copy() for name, value in classifier.state_dict().items()}


def test_an_interrupted_training_continues_to_the_same_bits(examples, tmp_path):
    settings = TrainingSettings(epochs=3, batch_size=4, learning_rate=1e-3)
    dropout = {"drop_path_rate": 0.2}  # random numbers, which must continue, too
    whole, progress = run(examples, tmp_path / "whole.pt", settings, **dropout)
    classifier, task = make(**dropout)

    class Interrupted(Exception):
        pass

    def interrupt(after):
        if after.epoch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(
            classifier,
            task,
            examples,
            FITTED,
            VALIDATION,
            settings,
            tmp_path / "part.pt",
            {"epochs": 0},
            interrupt,
        )
    torch.manual_seed(99)
    again, continued = run(examples, tmp_path / "part.pt", settings, **dropout)
    assert continued.history == progress.history
    assert len(progress.history) == 3
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(again)[name], value, err_msg=name)
    start = parameters(make(**dropout)[0])
    assert any((parameters(whole)[name] != start[name]).any() for name in start)


def test_a_checkpoint_of_other_settings_is_refused(examples, tmp_path):
    settings = TrainingSettings(epochs=1, batch_size=12)
    run(examples, tmp_path / "c.pt", settings)
    classifier, task = make()
    call = (classifier, task, examples, FITTED, VALIDATION, settings, tmp_path / "c.pt")
    with pytest.raises(UsageError, match=r"c\.pt: belongs to a training with other settings \(ep"):
        train(*call, {"epochs": 9})
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UsageError, match=r"c\.pt: cannot be read \(\w+\); remove it"):
        train(*call, {"epochs": 0})


@pytest.mark.parametrize("target", [SEX, AGE], ids=["classes", "numbers"])
def test_parts_of_a_batch_add_up_to_the_whole(examples, tmp_path, target):
    trained = []
    for micro_batch in (1, 3, 4):
        settings = TrainingSettings(epochs=1, batch_size=4, micro_batch=micro_batch)
        task = Task.of(target, FITTED)
        classifier, progress = run(examples, tmp_path / f"{micro_batch}.pt", settings, task)
        trained.append((predict(classifier, examples, VALIDATION, settings), progress.history))
    for outputs, history in trained[1:]:
        torch.testing.assert_close(outputs, trained[0][0], rtol=1e-3, atol=1e-5)
        assert history[0]["train"] == pytest.approx(trained[0][1][0]["train"], rel=1e-5)


def test_activation_checkpointing_keeps_gradients_and_saves_memory(examples):
    (volumes, _), *_ = examples.batches([[(0, 0)]])
    gradients, kept = [], []
    for on in (False, True):
        classifier, _ = make()
        torch.nn.init.normal_(classifier.head.weight)
        classifier.network.checkpoint_activations(on)
        n_bytes = 0

        def count(tensor):
            nonlocal n_bytes
            n_bytes += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = classifier.train()(volumes).square().sum()
        loss.backward()
        gradients.append([p.grad for p in classifier.network.parameters() if p.grad is not None])
        kept.append(n_bytes)
    assert len(gradients[0]) > 30
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)
    of_input = volumes.numel() * 4  # which the gradients of the patches need in any case
    assert kept[1] - of_input < (kept[0] - of_input) / 4


@pytest.mark.parametrize(
    ("freeze", "changed"),
    [
        ("none", {"patch_embed", "pos_embeds.0", "pos_embeds.2", "layers.0", "layers.2"}),
        ("stages", {"pos_embeds.2", "layers.2"}),
        ("backbone", set()),
    ],
)
def test_frozen_parts_do_not_change(examples, tmp_path, freeze, changed):
    settings = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-3)
    before = parameters(make()[0])
    after = parameters(run(examples, tmp_path / "c.pt", settings, freeze=freeze)[0])
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert "head.weight" in moved
    parts = ("patch_embed", "pos_embeds.0", "pos_embeds.2", "layers.0", "layers.2")
    assert {p for p in parts if any(n.startswith(f"network.{p}") for n in moved)} == changed
    if not changed:
        assert moved == {"head.weight"}


def test_a_frozen_network_runs_once(examples, tmp_path):
    """Its embeddings serve all epochs, and give what the network would give each time."""
    classifier, task = make(freeze="backbone")
    torch.nn.init.normal_(classifier.head.weight)
    calls = []
    classifier.network.register_forward_pre_hook(lambda _, x: calls.append(len(x[0])))
    embedded = frozen(examples, classifier)
    settings = TrainingSettings(epochs=3, batch_size=4)
    assert sum(calls) == 2 * N
    outputs = predict(classifier, embedded, VALIDATION, settings)
    train(
        classifier, task, embedded, FITTED, VALIDATION, settings, tmp_path / "c.pt", {"epochs": 0}
    )
    assert sum(calls) == 2 * N
    assert outputs.shape == (2, 2)
    parts = [[(number, 0), (number, 1)] for number in VALIDATION]
    with torch.no_grad():
        expected = [mean_embedding(classifier.network, v) for v, _ in examples.batches(parts)]
    found = [embeddings for embeddings, _ in embedded.batches(parts)]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected))


def test_training_stops_when_the_validation_loss_no_longer_falls(examples, tmp_path):
    """The targets are noise, so the smallest validation loss comes early."""
    settings = TrainingSettings(epochs=30, patience=2, batch_size=4, learning_rate=0.1)
    classifier, progress = run(examples, tmp_path / "c.pt", settings, freeze="backbone")
    losses = [epoch["validation"] for epoch in progress.history]
    assert progress.best_epoch == 1 + int(np.argmin(losses))
    assert progress.epoch == progress.best_epoch + 2 < 30
    # the parameters are those of the best epoch
    task = Task.of(SEX, FITTED)
    outputs = predict(classifier, frozen(examples, classifier), VALIDATION, settings)
    loss = float(task.losses(outputs, VALIDATION).mean())
    assert loss == pytest.approx(min(losses), rel=1e-5)


def test_a_training_that_diverges_says_so(examples, tmp_path):
    settings = TrainingSettings(epochs=2, batch_size=4)
    target = Target("age", (), np.where(np.arange(N) < 6, AGE.values, np.inf))
    with pytest.raises(InputError, match=r"not a finite number; .* smaller --learning-rate"):
        run(examples, tmp_path / "c.pt", settings, Task.of(target, FITTED))


def test_losses_are_those_of_the_paper():
    outputs = torch.tensor([[0.2, -0.1], [1.0, 0.5], [0.0, 2.0], [0.3, 0.3]])
    task = Task.of(Target("sex", ("F", "M"), np.array([0.0, 0, 0, 1])), np.arange(4))
    loss = task.losses(outputs, np.arange(4))
    # of two classes, cross-entropy is the binary cross-entropy of their difference
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs[:, 1] - outputs[:, 0], torch.tensor([0.0, 0, 0, 1]), reduction="none"
    )
    torch.testing.assert_close(loss, expected)
    np.testing.assert_allclose(task.weights(np.arange(4)), [2 / 3, 2 / 3, 2 / 3, 2])
    task = Task.of(AGE, FITTED)
    loss = task.losses(torch.zeros(N, 1), np.arange(N))
    ages = AGE.values[FITTED]
    np.testing.assert_allclose(
        loss.numpy(), ((AGE.values - ages.mean()) / ages.std()) ** 2, rtol=1e-5
    )
    assert task.weights(np.arange(N)).tolist() == [1.0] * N


@pytest.mark.parametrize("target", [SEX, AGE], ids=["classes", "numbers"])
def test_the_head_is_a_probe_of_the_mean_embedding(examples, target):
    task = Task.of(target, FITTED)
    classifier, _ = make(task)
    torch.nn.init.normal_(classifier.head.weight, std=0.1)
    outputs = predict(classifier, examples, VALIDATION, TrainingSettings()).numpy()
    with torch.no_grad():
        embeddings = [
            torch.cat([classifier.network(v).mean(dim=(2, 3, 4, 5)) for v, _ in
                       examples.batches([[(number, 0)], [(number, 1)]])]).mean(dim=0)
            for number in VALIDATION
        ]  # fmt: skip
    probe = task.as_probe(classifier, 6)
    predicted = probe.predict(torch.stack(embeddings).double().numpy())
    np.testing.assert_allclose(predicted, outputs * task.std + task.mean, rtol=1e-4)
    assert probe.classes == target.classes


def test_the_centre_counts_all_classes_alike():
    task = Task.of(Target("sex", ("F", "M"), np.array([0.0, 0, 0, 1])), np.arange(4))
    embeddings = torch.tensor([[1.0], [2], [3], [10]])
    assert task.centre_of(embeddings, np.arange(4)).tolist() == [6.0]
    task = Task.of(Target("age", (), np.array([20.0, 30, 40, 50])), np.arange(4))
    assert task.centre_of(embeddings, np.arange(4)).tolist() == [4.0]


def test_participants_with_many_chunks_count_no_more_than_others():
    matrices = [Matrix(np.zeros((60, INDEX.size), np.float16)) for _ in range(3)]
    runs = [
        KeptRun("a", "sub-a", matrices[0], (0, 20, 40), 20),
        KeptRun("b", "sub-b", matrices[1], (0,), 20),
        KeptRun("c", "sub-a", matrices[2], (0, 20), 20),
    ]
    examples = Examples(runs, ["sub-a", "sub-b"], "cpu")
    owners = examples.owners(examples.chunks_of(np.arange(2)))
    task = Task.of(Target("sex", ("F", "M"), np.array([0.0, 1])), np.arange(2))
    weights = task.weights(owners, examples.chunk_weights)
    assert weights.mean() == pytest.approx(1)
    assert weights[owners == 0].sum() == pytest.approx(weights[owners == 1].sum())


def test_groups_stay_together_when_that_leaves_all_classes_on_both_sides():
    site = np.repeat(np.arange(5), 8)
    rows = np.arange(100, 140)  # of a larger cohort
    everywhere = np.zeros(140)
    everywhere[rows] = np.arange(40) % 2
    groups = np.zeros(140, int)
    groups[rows] = site
    fitted, validation = early_stopping_split(
        Design(everywhere, ("F", "M"), None, groups), rows, seed=0
    )
    assert sorted([*fitted, *validation]) == rows.tolist()
    assert len(np.unique(groups[validation])) == 1
    assert not set(groups[fitted]) & set(groups[validation])
    # all patients at one site: a whole site would leave no patients on one side
    patients = np.zeros(140)
    patients[100:108] = 1
    fitted, validation = early_stopping_split(
        Design(patients, ("control", "patient"), None, groups), rows, seed=0
    )
    assert sorted([*fitted, *validation]) == rows.tolist()
    assert set(patients[fitted]) == set(patients[validation]) == {0, 1}
    assert len(validation) == 8


def test_batches_spread_the_target():
    torch.manual_seed(0)
    classes = np.repeat([0.0, 1.0], [30, 10])
    batches = stratified_batches(classes, 8)
    assert sorted(example for batch in batches for example in batch) == list(range(40))
    assert [len(batch) for batch in batches] == [8] * 5
    assert [int(classes[batch].sum()) for batch in batches] == [2] * 5
    numbers = np.random.default_rng(0).permutation(100) * 1.0
    means = [numbers[batch].mean() for batch in stratified_batches(numbers, 10)]
    assert np.std(means) < 2  # 9 if they were drawn at random
    assert stratified_batches(numbers, 10) != stratified_batches(numbers, 10)


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 200) for step in range(200)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert rates[105] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert np.diff(rates[10:]).max() < 0
    assert learning_rate(0, 3) == 1
