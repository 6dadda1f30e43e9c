"""Every way to a squared per-example gradient against plain autograd, one example at a time, in float64."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import transformers
from merging.errors import MergingError
from merging.hessians import _passes
from merging.hessians._blocks import OuterProducts
from merging.hessians._per_example import SquaredGradients
from torch import Tensor, nn

NUM_EXAMPLES = 8
NUM_CLASSES = 3
NUM_TOKENS = 12
PAD = 1

SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 15,
    "max_position_embeddings": NUM_TOKENS,
    "num_labels": NUM_CLASSES,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL_GPT2: dict[str, Any] = {
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 15,
    "n_positions": NUM_TOKENS,
    "num_labels": NUM_CLASSES,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL_OPT: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 12,
    "vocab_size": 15,
    "max_position_embeddings": NUM_TOKENS,
    "word_embed_proj_dim": 8,
    "num_labels": NUM_CLASSES,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL_VIT: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "num_labels": NUM_CLASSES,
}


class Convolutions(nn.Module):
    """Groups, strides, norms with running statistics or none, an activation in place, a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2, bias=False),
            nn.GroupNorm(3, 6),
            nn.Conv2d(6, 4, 3, padding="same", padding_mode="circular"),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, NUM_CLASSES),
        )
        norm = self.layers[1]
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layers(pixel_values)  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One matrix as embedding, as a layer that is called twice, and without a call of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 8, padding_idx=PAD)
        self.layer = nn.Linear(8, 8)
        self.layer.weight = self.embedding.weight
        self.norm = nn.RMSNorm(8)
        self.scale = nn.Parameter(torch.rand(8))
        self.head = nn.Linear(8, NUM_CLASSES)
        self.functional = nn.Linear(NUM_CLASSES, NUM_CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(input_ids % 8)
        hidden = self.norm(hidden + self.layer(hidden).tanh()) * self.scale
        hidden = self.layer(hidden.tanh())
        hidden = (hidden * attention_mask.unsqueeze(-1)).sum(1)
        return self.head(hidden) @ self.functional.weight  # type: ignore[no-any-return]


class SequenceFirst(nn.Module):
    """Attention that torch runs with the positions in front, through weights it does not call as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(15, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(input_ids.T)
        mixed, _ = self.attention(hidden, hidden, hidden, key_padding_mask=attention_mask == 0)
        return self.head(mixed[0])  # type: ignore[no-any-return]


class Vocabulary(nn.Module):
    """A language model's scores of all words at all positions, condensed to three."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("condense", torch.randn(15, NUM_CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.model.config.is_encoder_decoder:
            arguments["decoder_input_ids"] = input_ids[:, :4]
        return self.model(**arguments).logits.mean(1) @ self.condense  # type: ignore[no-any-return]


class Images(nn.Module):
    """The image half of CLIP."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.CLIPVisionConfig(**SMALL_VIT, projection_dim=NUM_CLASSES)
        self.model = transformers.CLIPVisionModelWithProjection(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).image_embeds  # type: ignore[no-any-return]


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=15,
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=6,
        relative_attention_max_distance=5,
        feed_forward_proj="gated-gelu",
        pad_token_id=PAD,
    )
    return Vocabulary(transformers.T5ForConditionalGeneration(config))


def adapted(make: Callable[[], nn.Module], kind: str, **fields: Any) -> nn.Module:
    """A model with an adapter of peft, which alone is trainable."""
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():  # peft asks transformers for what will be called otherwise
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = peft.get_peft_model(make(), getattr(peft, kind)(**fields))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "roberta": lambda: transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL)),
    "albert": lambda: transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(embedding_size=4, **SMALL)
    ),
    "gpt2": lambda: transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**SMALL_GPT2)),
    "llama": lambda: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**SMALL)),
    "opt": lambda: transformers.OPTForSequenceClassification(transformers.OPTConfig(**SMALL_OPT)),
    "deberta": lambda: transformers.DebertaV2ForSequenceClassification(
        transformers.DebertaV2Config(
            **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True
        )
    ),
    "mpnet": lambda: transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**SMALL)),
    "t5": t5,
    "gpt2_lm": lambda: Vocabulary(transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL_GPT2))),
    "lora": lambda: adapted(bert, "LoraConfig", r=2, target_modules=["query", "dense"]),
    "ia3": lambda: adapted(
        bert,
        "IA3Config",
        target_modules=["key", "value", "output.dense"],
        feedforward_modules=["output.dense"],
    ),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL_VIT)),
    "beit": lambda: transformers.BeitForImageClassification(transformers.BeitConfig(**SMALL_VIT)),
    "clip": Images,
    "convolutions": Convolutions,
    "shared": Shared,
    "sequence_first": SequenceFirst,
}
LOOPED = {
    "deberta": {  # relative positions go through the same layers as texts do, as one row for all examples
        "deberta.embeddings.position_embeddings.weight",
        "deberta.encoder.rel_embeddings.weight",
        *(
            f"deberta.encoder.layer.{layer}.attention.self.{projection}_proj.{parameter}"
            for layer in range(2)
            for projection in ("key", "query")
            for parameter in ("weight", "bias")
        ),
    },
    "shared": {"functional.weight"},
    "sequence_first": {
        "embedding.weight",
        "attention.in_proj_weight",
        "attention.in_proj_bias",
        "attention.out_proj.weight",
        "attention.out_proj.bias",
    },
}
VMAPPED = {
    "opt": {"model.decoder.embed_positions.weight"},  # a subclass of Embedding with a forward of its own
    "vit": {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
    "beit": {  # scales of layers: all of a layer is repeated, attention included
        "beit.embeddings.cls_token",
        "beit.layers.0.lambda_1",
        "beit.layers.0.lambda_2",
    },
    "clip": {"model.vision_model.embeddings.class_embedding"},
    "convolutions": {
        f"layers.{layer}.{parameter}" for layer in (1, 4, 5) for parameter in ("weight", "bias")
    },
    "shared": {"scale"},
}


def make_model(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model whose weights are large enough that every parameter matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]().to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def make_batch(name: str, *, padded: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name in ("vit", "beit", "clip", "convolutions"):
        return {"pixel_values": torch.randn(NUM_EXAMPLES, 1, 8, 8, generator=generator).double()}
    ids = torch.randint(2, 15, (NUM_EXAMPLES, 6), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(NUM_EXAMPLES):
            mask[row, 1 + 7 * row % 6 :] = 0
    return {"input_ids": ids.where(mask == 1, PAD), "attention_mask": mask}


def scores(model: Callable[..., Any], batch: Any) -> Tensor:
    output = model(**batch)
    return output if isinstance(output, Tensor) else output.logits


def rows(batch: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    return {key: value[start:stop] for key, value in batch.items()}


def fixed_cotangents(num_passes: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(num_passes, NUM_EXAMPLES, NUM_CLASSES, generator=generator, dtype=torch.float64)


def brute_force(
    model: nn.Module, batch: dict[str, Tensor], cotangents: Iterable[Tensor]
) -> dict[str, Tensor]:
    """The definition: one example, one backward pass, one square at a time."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for cotangent in cotangents:
        for row in range(NUM_EXAMPLES):
            output = scores(model, rows(batch, row, row + 1))
            gradients = torch.autograd.grad(
                output,
                list(parameters.values()),
                cotangent[row : row + 1].to(output.dtype),
                allow_unused=True,
            )
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient**2
    return sums


def ours(
    model: nn.Module, batch: dict[str, Tensor], cotangents: Tensor, *, batch_size: int = NUM_EXAMPLES
) -> SquaredGradients:
    squares = SquaredGradients(model, scores)
    for start in range(0, NUM_EXAMPLES, batch_size):
        stop = start + batch_size
        weights = cotangents[:, start:stop]
        squares.add(rows(batch, start, stop), lambda s, weights=weights: list(weights.to(s.dtype)))
    return squares


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], *, rtol: float) -> None:
    assert actual.keys() == expected.keys()
    largest = max(float(total.max()) for total in expected.values())
    for name, total in expected.items():
        torch.testing.assert_close(
            actual[name].double(),
            total.double(),
            rtol=rtol,
            atol=rtol * 1e-6 * largest,
            msg=lambda t, n=name: n + t,
        )


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_equals_brute_force(name: str, batch_size: int) -> None:
    model, batch, cotangents = make_model(name), make_batch(name), fixed_cotangents()
    squares = ours(model, batch, cotangents, batch_size=batch_size)
    rtol = 1e-6 if name in ("llama", "t5") else 1e-9  # their norms compute in float32 in any model
    assert_equal(squares.sums, brute_force(model, batch, cotangents), rtol=rtol)
    assert squares.num_examples == NUM_EXAMPLES
    if batch_size > 1:  # a batch of one hides what starts with another dimension
        assert set(squares.by_loop) == LOOPED.get(name, set())
        scales = {name for name in squares.sums if "ia3_l" in name}
        assert set(squares.by_vmap) == VMAPPED.get(name, scales)


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt2_lm", "t5"])
def test_without_padding(name: str) -> None:
    model, batch, cotangents = make_model(name), make_batch(name, padded=False), fixed_cotangents()
    rtol = 1e-6 if name == "t5" else 1e-9
    assert_equal(ours(model, batch, cotangents).sums, brute_force(model, batch, cotangents), rtol=rtol)


@pytest.mark.parametrize("name", ["t5", "mpnet"])
def test_two_sums_watch_one_pass(name: str) -> None:
    """Both want the biases of relative positions, which are given to each example only once."""
    model, batch, cotangents = make_model(name), make_batch(name), fixed_cotangents()
    squares, products = SquaredGradients(model, scores), OuterProducts(model, scores)
    group = _passes.Group(lambda s: list(cotangents), [squares, products])
    for _ in range(2):
        _passes.run(model, scores, batch, [group], backward=True)
    expected = brute_force(model, batch, cotangents)
    assert_equal(squares.sums, {key: 2 * total for key, total in expected.items()}, rtol=1e-6)
    for key, total in products.sums.items():
        torch.testing.assert_close(
            total.diagonal().view(expected[key].shape), 2 * expected[key], rtol=1e-6, atol=1e-9
        )
    left = {"compute_bias", "compute_position_bias"}
    assert not any(left & vars(module).keys() for module in model.modules())


def test_the_squared_gradient_of_a_batch_is_something_else() -> None:
    model, batch, cotangents = make_model("bert"), make_batch("bert"), fixed_cotangents()
    expected = brute_force(model, batch, cotangents)
    (scores(model, batch) * cotangents[0]).sum().backward()
    naive = {name: p.grad**2 for name, p in model.named_parameters() if p.grad is not None}
    with pytest.raises(AssertionError):
        assert_equal(naive, expected, rtol=0.5)
    assert_equal(ours(model, batch, cotangents).sums, expected, rtol=1e-9)


def test_several_cotangents_are_squared_one_by_one() -> None:
    model, batch, cotangents = make_model("shared"), make_batch("shared"), fixed_cotangents(3)
    assert_equal(ours(model, batch, cotangents).sums, brute_force(model, batch, cotangents), rtol=1e-9)


def test_scores_of_several_positions() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, NUM_CLASSES)).double().eval()
    inputs, weights = torch.randn(3, 6, 4).double(), torch.randn(3, 6, NUM_CLASSES).double()
    squares = SquaredGradients(model, lambda model, batch: model(batch["x"]))
    squares.add({"x": inputs}, lambda scores: [weights])
    expected = torch.zeros(5, 4).double()
    for example, weight in zip(inputs, weights, strict=True):
        (gradient,) = torch.autograd.grad((model(example) * weight).sum(), model[0].weight)
        expected += gradient**2
    torch.testing.assert_close(squares.sums["0.weight"], expected)


def test_chunks_of_examples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, cotangents = make_model("convolutions"), make_batch("convolutions"), fixed_cotangents()
    whole = ours(model, batch, cotangents).sums
    monkeypatch.setattr("merging.hessians._products._MAX_ELEMENTS", {"cpu": 30})
    assert_equal(ours(model, batch, cotangents).sums, whole, rtol=1e-12)


def test_bfloat16_accumulates_in_float32() -> None:
    exact, batch, cotangents = make_model("bert"), make_batch("bert"), fixed_cotangents()
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
    model = copy.deepcopy(exact).bfloat16()
    squares = ours(model, batch, cotangents * 1e-15)  # squares below the smallest float16
    assert not squares.by_loop
    for name, total in brute_force(exact, batch, cotangents).items():
        assert squares.sums[name].dtype == torch.float32
        if "key.bias" not in name:  # zero in theory
            error = (squares.sums[name].double() * 1e30 - total).norm() / total.norm()
            assert error < 0.15, name


def test_frozen_parameters_are_left_out() -> None:
    model, batch, cotangents = make_model("bert"), make_batch("bert"), fixed_cotangents()
    full = brute_force(model, batch, cotangents)
    frozen = [name for name, _ in model.named_parameters() if "embeddings" in name or name.endswith("bias")]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    squares = ours(model, batch, cotangents)
    assert_equal(squares.sums, {n: t for n, t in full.items() if n not in frozen}, rtol=1e-9)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == frozen


def test_unused_parameters_are_zero_and_listed() -> None:
    model = make_model("bert")
    model.unused = nn.Linear(2, 2)  # type: ignore[assignment]
    model.eval()
    squares = ours(model, make_batch("bert"), fixed_cotangents())
    assert squares.without_gradient == ["unused.bias", "unused.weight"]
    assert not squares.sums["unused.weight"].any()


def test_the_model_is_left_as_it_was() -> None:
    model = make_model("vit")
    before = copy.deepcopy(model.state_dict())
    ours(model, make_batch("vit"), fixed_cotangents())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_what_vmap_refuses_goes_by_the_loop() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(NUM_CLASSES).double())

        def forward(self, pixel_values: Tensor) -> Tensor:
            flat = pixel_values.flatten(1)[:, :NUM_CLASSES]
            return flat * self.scale if float(flat[0, 0]) < 100 else flat

    model, batch, cotangents = Branching().eval(), make_batch("vit"), fixed_cotangents()
    squares = ours(model, batch, cotangents)
    assert squares.by_loop == ["scale"]
    assert_equal(squares.sums, brute_force(model, batch, cotangents), rtol=1e-9)


def test_a_module_that_changes_its_layout_is_refused() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expert = nn.Linear(64, NUM_CLASSES).double()

        def forward(self, pixel_values: Tensor) -> Tensor:
            flat = pixel_values.flatten(1)
            if len(flat) < 4:
                return self.expert(flat)
            return torch.cat([self.expert(flat[:2]), self.expert(flat[2:])])

    with pytest.raises(MergingError, match=r"expert\.bias, expert\.weight: .* batch dimension"):
        ours(Routed().eval(), make_batch("vit"), fixed_cotangents())


def test_training_mode_is_refused() -> None:
    model = make_model("convolutions")
    model.get_submodule("layers.1").train()
    with pytest.raises(MergingError, match=r"layers\.1 is in training mode; .* Call model\.eval\(\) first"):
        SquaredGradients(model, scores)


def test_statistics_of_the_batch_are_refused() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)).eval()
    with pytest.raises(MergingError, match=r"0 normalises with the statistics of the batch"):
        SquaredGradients(model, scores)


def test_a_wholly_frozen_model_is_refused() -> None:
    with pytest.raises(MergingError, match="no trainable parameter"):
        SquaredGradients(make_model("bert").requires_grad_(False), scores)
