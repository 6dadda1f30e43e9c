"""A and G against sums over single examples, without padding, by plain autograd in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from merging.errors import MergingError
from merging.hessians import fisher_empirical, kfac_empirical, kfac_mc
from merging.hessians._factors import FactorSums
from merging.hessians._per_example import SquaredGradients
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LENGTHS = (5, 2, 1, 4)
LABELS = torch.tensor([0, 1, 1, 0])


def logits(model: Any, batch: Any) -> Tensor:
    out = model(**batch)
    return getattr(out, "logits", out)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6
    )
    return transformers.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=11, n_embd=4, n_layer=1, n_head=2, n_positions=8, pad_token_id=0, num_labels=2
    )
    return transformers.GPT2ForSequenceClassification(config)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.double().eval()


def texts() -> dict[str, Tensor]:
    """Four texts, padded to five tokens on the right."""
    ids = torch.zeros(4, 5, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.arange(length) * (row + 2) % 9 + 1
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def added(
    model: nn.Module,
    batch: dict[str, Tensor],
    labels: Tensor,
    *,
    batch_size: int,
    outputs: bool = True,
    **options: bool,
) -> FactorSums:
    sums = FactorSums(model, logits, outputs=outputs, **options)
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        given = partial(kfac_empirical.cotangents, labels=labels[rows], examples=(), num_samples=1, seed=0)
        sums.add({key: value[rows] for key, value in batch.items()}, given)
    return sums


def by_hand(
    model: nn.Module, *, with_bias: bool = False, reduce: bool = False
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """(A, G, vectors) of each linear layer, from one text without padding at a time."""
    found: dict[str, tuple[Any, Any, int]] = {}
    batch = texts()
    layers = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    for row, length in enumerate(LENGTHS):
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def keep(name: str, seen: Any, module: nn.Module, args: Any, output: Tensor) -> None:
            output.retain_grad()
            seen[name] = args[0], output

        handles = [m.register_forward_hook(partial(keep, n, seen)) for n, m in layers.items()]
        scores = logits(model, {key: value[row : row + 1, :length] for key, value in batch.items()})
        scores.log_softmax(-1)[0, LABELS[row]].backward()
        for name, (a, output) in seen.items():
            assert output.grad is not None
            a, g = a.detach().flatten(0, -2), output.grad.flatten(0, -2)
            if reduce:
                a, g = a.mean(0, keepdim=True), g.sum(0, keepdim=True)
            if with_bias:
                a = nn.functional.pad(a, (0, 1), value=1)
            first, second, count = found.get(name, (0, 0, 0))
            found[name] = first + a.T @ a, second + g.T @ g, count + len(a)
        for handle in handles:
            handle.remove()
    return {name: (a / count, g / len(LENGTHS), count) for name, (a, g, count) in found.items()}


@pytest.mark.parametrize("make", [bert, gpt2])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_equal_to_single_examples_without_padding(make: Callable[[], nn.Module], batch_size: int) -> None:
    model = built(make)
    sums = added(model, texts(), LABELS, batch_size=batch_size)
    expected = by_hand(model)
    assert sums.num_examples == 4 and sums.means().keys() == expected.keys()
    for name, (a, g) in sums.means().items():
        assert sums.num_positions[name] == expected[name][2]
        torch.testing.assert_close(a, expected[name][0])
        torch.testing.assert_close(g, expected[name][1])
    assert all(parameter.requires_grad for parameter in model.parameters())
    by_positions = sums.means(outputs_by="positions")
    for name, (_, g) in sums.means().items():
        torch.testing.assert_close(by_positions[name][1], g * 4 / sums.num_positions[name])


@pytest.mark.parametrize("make", [bert, gpt2])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("reduce", [False, True])
def test_bias_last_and_one_vector_of_an_example(
    make: Callable[[], nn.Module], batch_size: int, reduce: bool
) -> None:
    model = built(make)
    sums = added(model, texts(), LABELS, batch_size=batch_size, with_bias=True, reduce=reduce)
    with_bias, without = by_hand(model, with_bias=True, reduce=reduce), by_hand(model, reduce=reduce)
    means = sums.means()
    for name, (a, g) in means.items():
        expected = with_bias if name in sums.biases else without
        assert sums.num_positions[name] == expected[name][2]
        torch.testing.assert_close(a, expected[name][0])
        torch.testing.assert_close(g, expected[name][1])
    head = {"score.weight"} if make is gpt2 else set()  # has no bias
    assert sums.biases == {name: name.replace("weight", "bias") for name in means.keys() - head}


def test_one_position_is_the_same_expanded_or_reduced() -> None:
    model = built(bert)
    batch = {key: value[:, :1] for key, value in texts().items()}
    expanded = added(model, batch, LABELS, batch_size=4).means()
    reduced = added(model, batch, LABELS, batch_size=4, reduce=True).means()
    for name, (a, g) in expanded.items():
        torch.testing.assert_close(reduced[name][0], a)
        torch.testing.assert_close(reduced[name][1], g)


def test_a_bias_of_two_layers_stands_in_neither() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 2)
            self.other.bias = self.one.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x)

    sums = FactorSums(built(Shared), logits, outputs=False, with_bias=True)
    assert sums.biases == {} and sums.inputs["one.weight"].shape == (3, 3)


def test_grams_take_no_backward_pass() -> None:
    model = built(bert)

    def refuse(scores: Tensor) -> Any:
        raise AssertionError("no cotangents are needed")

    sums = FactorSums(model, logits, outputs=False)
    sums.add(texts(), refuse)
    expected = added(model, texts(), LABELS, batch_size=4).means()
    for name, (a, g) in sums.means().items():
        torch.testing.assert_close(a, expected[name][0])
        assert g is None


def test_transposed_weights_are_known_by_class() -> None:
    sums = added(built(gpt2), texts(), LABELS, batch_size=4)
    assert sums.transposed == [
        f"transformer.h.0.{layer}.weight"
        for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    a, g = sums.means()["transformer.h.0.mlp.c_fc.weight"]
    assert g is not None and (a.shape, g.shape) == ((4, 4), (16, 16))


class Pixels(nn.Module):
    """A convolution, and a grouped one, over images."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 2, stride=2, padding=1, **options)
        self.head = nn.Linear(4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.conv(pixels).relu().mean((2, 3)))


def test_one_position_of_one_example_is_its_outer_product() -> None:
    """A (x) G is then exact: its diagonal is that of the empirical Fisher."""
    model, pixels = built(Pixels), torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    batch, label = {"pixels": pixels.double()}, LABELS[:1]
    cotangents = partial(fisher_empirical.cotangents, labels=label, examples=(), num_samples=1, seed=0)
    squares = SquaredGradients(model, logits)
    squares.add(batch, cotangents)
    a, g = added(model, batch, label, batch_size=1).means()["head.weight"]
    assert g is not None
    torch.testing.assert_close(torch.outer(g.diag(), a.diag()), squares.sums["head.weight"])


def test_convolutions_are_linear_in_their_patches() -> None:
    model = built(Pixels)
    pixels = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    sums = added(model, {"pixels": pixels}, LABELS[:3], batch_size=2)
    patches = nn.functional.unfold(pixels, 2, padding=1, stride=2).transpose(1, 2).reshape(-1, 8)
    a, g = sums.means()["conv.weight"]
    torch.testing.assert_close(a, patches.T @ patches / len(patches))
    assert g is not None and g.shape == (4, 4) and sums.num_positions["conv.weight"] == 27


class Odd(nn.Module):
    """What must not be counted: a tied head, a layer that nobody calls, a table that all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.unused = nn.Linear(4, 4)
        self.shared = nn.Linear(4, 4)
        self.both = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.lm_head = nn.Linear(4, 11, bias=False)
        self.lm_head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        table = self.shared(torch.ones(5, 4, dtype=torch.float64)).mean(0)
        hidden = self.frozen(self.both(self.embedding(input_ids)) + self.both(table))
        return self.lm_head(hidden.mean(1))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_has_no_factors_is_named(batch_size: int) -> None:
    model = built(Odd)
    sums = added(model, texts(), LABELS, batch_size=batch_size)
    assert sums.means().keys() == {"both.weight"}
    assert sums.uncovered == {
        "embedding.weight": "something else uses it, too",
        "shared.weight": "no example reaches it",
        "unused.weight": "no example reaches it",
    }
    assert sums.num_positions["both.weight"] == sum(LENGTHS)
    pixels = torch.ones(1, 2, 4, 4).double()
    for kwargs, why in (({"groups": 2}, "with groups"), ({"padding_mode": "circular"}, "such padding")):
        odd = built(partial(Pixels, **kwargs))
        found = added(odd, {"pixels": pixels}, LABELS[:1], batch_size=1).uncovered
        assert list(found) == ["conv.weight"] and why in found["conv.weight"]


def test_drawn_labels_come_close_to_all_classes() -> None:
    """For softmax regression E g g^T = diag(p) - p p^T."""
    model = built(lambda: nn.Sequential(nn.Linear(3, 3, bias=False)))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double().repeat(1000, 1)
    sums = FactorSums(model, lambda model, batch: model(batch["x"]), outputs=True)
    sums.add({"x": x}, partial(kfac_mc.cotangents, labels=None, examples=range(2000), num_samples=1, seed=0))
    p = model(x).softmax(-1).detach()
    exact = torch.diag(p.mean(0)) - p.T @ p / 2000
    g = sums.means()["0.weight"][1]
    assert g is not None and (g - exact).norm() < 0.1 * exact.norm()


def test_refusals() -> None:
    with pytest.raises(MergingError, match="is in training mode"):
        FactorSums(bert(), logits, outputs=False)
    with pytest.raises(MergingError, match=r"no trainable weight of a linear layer.*Take a diagonal"):
        FactorSums(nn.LayerNorm(3).eval(), logits, outputs=False)
    model = built(Pixels)
    with pytest.raises(MergingError, match="the model's scores are not finite"):
        added(model, {"pixels": torch.full((1, 2, 4, 4), torch.inf).double()}, LABELS[:1], batch_size=1)
