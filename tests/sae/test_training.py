"""Training: it learns, resumes to the same bits, and stops where it should."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trimtab.core.errors import CoderError, ConfigError, TrainingError
from trimtab.core.names import NAMES
from trimtab.core.seeds import Seed
from trimtab.sae.checkpoint import FILE
from trimtab.sae.coder import Kind, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import LayerRows, from_tensors
from trimtab.sae.training import Progress, Trainer

KINDS: tuple[Kind, ...] = ("relu", "topk", "batchtopk", "jumprelu")
CPU = torch.device("cpu")
Configure = Callable[..., TrainConfig]
Draw = Callable[..., Tensor]


def trainer(
    config: TrainConfig, train: LayerRows, validation: LayerRows | None = None, **given: object
) -> Trainer:
    return Trainer(train, validation, config, Seed(3), CPU, **given)


def steps(training: Trainer, num: int) -> None:
    """That many steps, from where the training is."""
    if num:
        for done, _ in enumerate(training.run(), start=1):
            if done == num:
                return


def tensors(training: Trainer) -> dict[str, Tensor]:
    return {
        f"{layer}/{name}": tensor.detach().clone()
        for layer, sae in training.saes.items()
        for name, tensor in sae.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def last(training: Trainer) -> Progress:
    *_, progress = training.run()
    return progress


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_to_reconstruct_held_out_rows(
    config: Configure, rows: Draw, kind: Kind
) -> None:
    settings = config(kind, epochs=12.0, batch_size=25, learning_rate=2e-2, report_steps=96)
    training = trainer(settings, from_tensors({0: rows(400)}), from_tensors({0: rows(100, 1)}))
    early, late = (progress.metrics[0] for progress in training.run())
    assert late["validation/fvu"] < 0.15
    assert late["validation/fvu"] < early["validation/fvu"]
    assert training.finished
    assert training.epochs_done == 12.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_saved_goes_on_to_the_same_bits(
    config: Configure, rows: Draw, tmp_path: Path, kind: Kind, precision: str
) -> None:
    target = {"target_l0": 3.0} if kind in ("relu", "jumprelu") else {"dead_after_rows": 60}
    settings = config(kind, precision=precision, report_steps=1, **target)
    x = from_tensors({0: rows(70), 4: rows(70, 1)})
    straight, broken, resumed = (trainer(settings, x, x) for _ in range(3))
    steps(straight, 10)
    steps(broken, 6)  # in the middle of the second epoch
    broken.save(tmp_path)
    resumed.load(tmp_path)
    assert (resumed.steps, resumed.epochs_done) == (6, broken.epochs_done)
    assert same(tensors(resumed), tensors(broken))
    steps(resumed, 4)
    assert same(tensors(resumed), tensors(straight))
    for layer in (0, 4):
        ours, theirs = resumed.layers[layer], straight.layers[layer]
        assert ours.penalty == theirs.penalty
        assert torch.equal(ours.silent_rows, theirs.silent_rows)
    final, expected = last(resumed), last(straight)
    for metrics in (*final.metrics.values(), *expected.metrics.values()):
        del metrics["train/rows_per_second"]
    assert final == expected
    assert same(tensors(resumed), tensors(straight))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    config: Configure, rows: Draw
) -> None:
    x = from_tensors({0: rows(60)})
    a, b = trainer(config(), x), trainer(config(), x)
    c = Trainer(x, None, config(), Seed(4), CPU)
    for training in (a, b, c):
        last(training)
    assert same(tensors(a), tensors(b))
    assert not same(tensors(a), tensors(c))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_trained_together_are_those_trained_alone(
    config: Configure, rows: Draw, kind: Kind
) -> None:
    x, y = rows(60), 3 * rows(60, 1)
    both = trainer(config(kind), from_tensors({2: x, 7: y}))
    alone = trainer(config(kind), from_tensors({7: y}))
    last(both)
    last(alone)
    found = {name: tensor for name, tensor in tensors(both).items() if name.startswith("7/")}
    assert same(found, tensors(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_scale_give_the_same_coder_in_that_scale(
    config: Configure, rows: Draw, kind: Kind
) -> None:
    x = rows(60)
    small, large = (trainer(config(kind), from_tensors({0: s * x})) for s in (1, 1024))
    last(small)
    last(large)
    found, expected = large.saes[0](1024 * x), 1024 * small.saes[0](x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1.0)


def test_every_reported_name_is_on_the_closed_list(config: Configure, rows: Draw) -> None:
    x = from_tensors({0: rows(40)})
    seen = {name for kind in KINDS for name in last(trainer(config(kind), x, x)).metrics[0]}
    assert seen <= NAMES
    assert {"train/aux", "train/lambda", "validation/fvu"} <= seen


def test_reports_come_at_their_interval_and_at_the_end(config: Configure, rows: Draw) -> None:
    training = trainer(config(report_steps=4), from_tensors({0: rows(60)}))
    assert [progress.step for progress in training.run()] == [4, 8, 9]
    assert list(training.run()) == []


def test_reports_average_over_the_steps_since_the_last(config: Configure, rows: Draw) -> None:
    x = from_tensors({0: rows(60)})
    one = [p.metrics[0]["train/mse"] for p in trainer(config(report_steps=1), x).run()]
    three = [p.metrics[0]["train/mse"] for p in trainer(config(report_steps=3), x).run()]
    expected = [sum(one[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert three == pytest.approx(expected, rel=1e-6)


def test_errors_are_reported_in_the_activations_own_units(config: Configure, rows: Draw) -> None:
    x = 100 * rows(40)
    training = trainer(config(epochs=1.0, report_steps=1), from_tensors({0: x}))
    start = {0: training.saes[0]}
    again = trainer(config(batch_size=40, learning_rate=1e-9), from_tensors({0: x}), start=start)
    metrics = next(again.run()).metrics[0]
    with torch.no_grad():
        error = start[0](x) - x
    assert metrics["train/mse"] == pytest.approx(float(error.square().mean()), rel=1e-4)
    spread = float((x - x.mean(0)).square().mean())
    assert metrics["train/fvu"] == pytest.approx(metrics["train/mse"] / spread, rel=1e-4)


def test_a_fraction_of_an_epoch_ends_within_it(config: Configure, rows: Draw) -> None:
    training = trainer(config(epochs=1.5), from_tensors({0: rows(40)}))
    assert last(training).step == 3


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_rows_have_length_one_after_each_step(
    config: Configure, rows: Draw, kind: Kind
) -> None:
    training = trainer(config(kind, report_steps=1), from_tensors({0: rows(40)}))
    for _ in training.run():
        lengths = training.saes[0].W_dec.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(32), rtol=1e-6, atol=0.0)


def test_the_centre_is_the_mean_of_all_training_rows(config: Configure, rows: Draw) -> None:
    x = rows(50)
    training = trainer(config(), from_tensors({0: x.bfloat16()}))
    expected = x.bfloat16().double().mean(0).float()
    assert torch.equal(training.saes[0].center, expected)


def one_step(config: TrainConfig, x: Tensor, start: Sae) -> tuple[Trainer, dict[str, Tensor]]:
    """A training after one step on all rows, and the gradients that the step took."""
    training = trainer(config, from_tensors({0: x}), start={0: start})
    training.step({0: x})
    weights = training.layers[0].weights
    return training, {name: weight.grad.clone() for name, weight in weights.items()}


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_the_part_of_a_gradient_along_decoder_rows_is_removed_where_asked(
    config: Configure, rows: Draw, random_sae: Callable[..., Sae], kind: Kind, project: bool
) -> None:
    settings = config(kind, project_gradient=project, clip=None)
    start = random_sae(settings, torch.float32)
    _, grads = one_step(settings, rows(20), start)
    along = float((grads["W_dec"] * start.W_dec.detach()).sum(1).abs().max())
    assert (along < 1e-6 * float(grads["W_dec"].abs().max())) is project


def test_a_step_of_the_studys_recipe_is_its_formula(
    config: Configure, rows: Draw, random_sae: Callable[..., Sae]
) -> None:
    recipe = TrainConfig.li2026(width=32, target_l0=4.0)
    settings = recipe.model_copy(update={"precision": "float32", "stop": None})
    x = rows(20)
    start = random_sae(settings, torch.float32)
    training, grads = one_step(settings, x, start)

    W_enc, b_enc, W_dec, b_dec = weights = [w.detach().clone() for w in start.parameters()]
    for weight in weights:
        weight.requires_grad_()
    z = torch.relu((x - start.center) @ W_enc.T + b_enc)
    found = z @ W_dec + b_dec
    loss = (found - (x - start.center)).square().mean() + 1e-3 * z.abs().mean()
    loss.backward()
    norm = torch.stack([w.grad.norm() for w in weights]).norm()
    optimiser = torch.optim.AdamW(weights, lr=1e-4 * 1 / 5, weight_decay=0.0)
    for weight in weights:
        assert weight.grad is not None
        weight.grad.mul_(min(1.0, 1.0 / float(norm)))
    for weight, name in zip(weights, ("W_enc", "b_enc", "W_dec", "b_dec"), strict=True):
        torch.testing.assert_close(grads[name], weight.grad, rtol=1e-4, atol=1e-8)
    optimiser.step()
    sae = training.saes[0]
    torch.testing.assert_close(sae.W_enc, W_enc, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(sae.W_dec, W_dec / W_dec.norm(dim=1, keepdim=True))
    assert training.layers[0].penalty != 1e-3


def test_the_gradient_is_clipped_to_its_norm_over_all_weights(
    config: Configure, rows: Draw, random_sae: Callable[..., Sae]
) -> None:
    settings = config("topk", clip=1e-3)
    start = random_sae(settings, torch.float32)
    _, clipped = one_step(settings, rows(20), start)
    _, whole = one_step(config("topk", clip=None), rows(20), start)
    norm = torch.stack([grad.norm() for grad in whole.values()]).norm()
    assert norm > 1e-3
    for name, grad in clipped.items():
        torch.testing.assert_close(grad, whole[name] * (1e-3 / norm))


def test_lambda_moves_once_an_epoch_towards_the_target(config: Configure, rows: Draw) -> None:
    x = from_tensors({0: rows(60)})
    high = trainer(config("relu", target_l0=1.0, learning_rate=1e-6), x)
    low = trainer(config("relu", target_l0=30.0, learning_rate=1e-6), x)
    fixed = trainer(config("relu"), x)
    for training in (high, low, fixed):
        last(training)
    assert high.layers[0].penalty == pytest.approx(1e-3 * 1.2**3)
    assert low.layers[0].penalty == pytest.approx(1e-3 * 0.95**3)
    assert fixed.layers[0].penalty == 1e-3


@pytest.mark.parametrize(
    ("kind", "rate", "penalty"), [("relu", 1e-2, 1e-2), ("jumprelu", 3e-2, 1e-3)]
)
def test_a_target_l0_is_reached(
    config: Configure, rows: Draw, kind: Kind, rate: float, penalty: float
) -> None:
    fields = {"learning_rate": rate, "penalty": penalty, "batch_size": 50, "report_steps": 1000}
    x = from_tensors({0: rows(400)})
    training = trainer(config(kind, target_l0=4.0, epochs=60.0, **fields), x, x)
    assert last(training).metrics[0]["validation/l0"] == pytest.approx(4.0, rel=0.2)


def test_training_stops_when_the_rule_has_held_for_its_epochs(
    config: Configure, rows: Draw
) -> None:
    stop = {"mse": 1e9, "l0_tolerance": 1.0, "epochs": 2}
    settings = config("relu", target_l0=16.0, epochs=50.0, stop=stop)
    x = from_tensors({0: rows(60), 1: rows(60, 1)})
    training = trainer(settings, x, x)
    assert last(training).epoch == 2.0
    assert training.finished


def test_a_stop_rule_needs_rows_to_look_at(config: Configure, rows: Draw) -> None:
    settings = config("relu", target_l0=16.0, stop={"mse": 1.0})
    with pytest.raises(ConfigError, match="`stop` looks at validation rows"):
        trainer(settings, from_tensors({0: rows(60)}))


@pytest.mark.parametrize("revived", [True, False])
def test_latents_that_never_win_are_dead_unless_they_are_revived(
    config: Configure, rows: Draw, revived: bool
) -> None:
    x = from_tensors({0: rows(400)})
    fields = {"batch_size": 50, "report_steps": 1000, "warmup_epochs": 0.0}
    first = trainer(config(epochs=10.0, **fields), x)
    last(first)
    start = first.saes[0]
    with torch.no_grad():
        start.W_enc[:16] *= 0.1
        start.b_enc[:16] *= 0.1
    aux = {"dead_after_rows": 400, "aux_coefficient": 1 / 32 if revived else 0.0}
    training = trainer(config(epochs=10.0, **fields, **aux), x, start={0: start})
    metrics = last(training).metrics[0]
    assert (metrics["train/dead"] < 0.2) is revived
    assert (metrics["train/aux"] > 0) is revived


def test_silent_latents_are_counted_in_rows(config: Configure, rows: Draw) -> None:
    training = trainer(config("relu", epochs=2.0), from_tensors({0: rows(50)}))
    sae = training.layers[0].sae
    with torch.no_grad():
        sae.b_enc[:3] -= 1e3
    last(training)
    silent = training.layers[0].silent_rows
    assert silent[:3].tolist() == [100.0] * 3
    assert float(silent[3:].min()) == 0.0


def test_in_use_batchtopk_has_as_many_latents_as_in_training(config: Configure, rows: Draw) -> None:
    settings = config("batchtopk", epochs=20.0, report_steps=1000)
    x = rows(200)
    training = trainer(settings, from_tensors({0: x}))
    last(training)
    sae = training.saes[0]
    assert len(sae.threshold.unique()) == 1
    assert float((sae.encode(x) > 0).float().sum(1).mean()) == pytest.approx(4.0, rel=0.15)


def spoiled(x: Tensor) -> Tensor:
    bad = x.clone()
    bad[3, 2] = torch.nan
    return bad


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_a_number_stops_and_leaves_weights_and_checkpoint_alone(
    config: Configure, rows: Draw, tmp_path: Path, kind: Kind
) -> None:
    x = rows(20)
    training = trainer(config(kind), from_tensors({1: x, 6: x}))
    training.step({1: x, 6: x})
    training.save(tmp_path)
    written, before = (tmp_path / FILE).read_bytes(), tensors(training)
    with pytest.raises(TrainingError, match=r"layer 1, step 1 \(epoch 1, rows 0 to 20\).*nan"):
        training.step({1: spoiled(x), 6: x})
    assert same(tensors(training), before)
    with pytest.raises(TrainingError, match="last checkpoint is as it was"):
        training.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == written
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_learning_rate_may_change_at_a_checkpoint(
    config: Configure, rows: Draw, tmp_path: Path
) -> None:
    x = from_tensors({0: rows(60)})
    first = trainer(config("relu", report_steps=1), x)
    steps(first, 2)
    first.save(tmp_path)
    other = trainer(config("relu", report_steps=1, learning_rate=0.5, penalty=0.25), x)
    other.load(tmp_path)
    assert other.steps == 2
    assert other.layers[0].penalty == 0.25


@pytest.mark.parametrize(
    ("fields", "layer", "num", "message"),
    [
        ({"width": 16}, 0, 60, r"must hold the layers and coders .*'width': 16"),
        ({"kind": "relu"}, 0, 60, "Go on with the configuration"),
        ({}, 1, 60, "must hold the layers and coders"),
        ({}, 0, 61, "must be of a training on 61 rows, but is of one on 60"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    config: Configure,
    rows: Draw,
    tmp_path: Path,
    fields: dict[str, object],
    layer: int,
    num: int,
    message: str,
) -> None:
    trainer(config(), from_tensors({0: rows(60)})).save(tmp_path)
    other = trainer(config(**fields), from_tensors({layer: rows(num)}))
    with pytest.raises(CoderError, match=message):
        other.load(tmp_path)


@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_checkpoint_that_cannot_be_read_is_refused(
    config: Configure, rows: Draw, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CoderError, match=r"cannot be read .* Start the training anew"):
        trainer(config(), from_tensors({0: rows(60)})).load(tmp_path)


def test_going_on_from_a_coder_keeps_its_centre_and_leaves_it_alone(
    config: Configure, rows: Draw, random_sae: Callable[..., Sae]
) -> None:
    settings = config("topk")
    start = random_sae(settings, torch.float32)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    training = trainer(settings, from_tensors({0: rows(60)}), start={0: start})
    x = rows(5)
    torch.testing.assert_close(training.saes[0](x), start(x))
    last(training)
    assert torch.equal(training.saes[0].center, start.center)
    assert not torch.equal(training.saes[0].W_dec, start.W_dec)
    assert same(dict(start.state_dict()), before)


def test_fewer_rows_than_a_batch_are_one_batch(config: Configure, rows: Draw) -> None:
    training = trainer(config(batch_size=4096, epochs=2.0), from_tensors({0: rows(1)}))
    assert last(training).step == 2


def test_coders_in_training_share_their_matrices_with_those_handed_out(
    config: Configure, rows: Draw
) -> None:
    training = trainer(config(), from_tensors({0: rows(60)}))
    assert training.saes[0].W_dec.data_ptr() == training.layers[0].sae.W_dec.data_ptr()


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_coders_that_are_handed_over_leave_gradients_and_moments_behind(
    config: Configure, rows: Draw, kind: Kind
) -> None:
    training = trainer(config(kind), from_tensors({0: rows(60), 4: rows(60)}))
    last(training)
    before = tensors(training)
    saes = training.hand_over()
    assert same(
        {f"{k}/{name}": x for k, sae in saes.items() for name, x in sae.state_dict().items()},
        before,
    )
    for layer, sae in saes.items():
        assert all(weight.grad is None for weight in sae.parameters())
        assert not training.layers[layer].optimiser.state
