"""Write tiny data sets and a tiny model into ``example/``: what the scripts in this folder run on.

Reviews are put together from a few words, so that seconds of training on a CPU are enough to learn something.
"""

import json
import random
import sys
from pathlib import Path

SIZES = {"train": 240, "validation": 40, "test": 80}
THINGS = {
    "films": ["the film", "the plot", "the cast", "the music"],
    "food": ["the soup", "the pasta", "the waiter", "the wine"],
    "hotels": ["the room", "the bed", "the view", "the pool"],
}
WORDS = {  # label -> words that all domains share, and each domain's own
    0: {"all": ["bad", "awful"], "films": ["boring"], "food": ["stale"], "hotels": ["dirty"]},
    1: {"all": ["good", "great"], "films": ["moving"], "food": ["tasty"], "hotels": ["quiet"]},
}
FILLERS = ["was", "is", "really", "quite", "and", "we", "found"]


def review(domain: str, label: int, random_: random.Random) -> str:
    """One sentence; its label is in one word."""
    words = WORDS[label]["all"] + 2 * WORDS[label][domain]
    return f"{random_.choice(THINGS[domain])} {random_.choice(FILLERS)} {random_.choice(words)}"


def write_data(folder: Path) -> None:
    """``<folder>/<domain>/<split>.jsonl`` with columns text and label."""
    random_ = random.Random(0)
    for domain in THINGS:
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for split, size in SIZES.items():
            rows = [
                {"text": review(domain, number % 2, random_), "label": number % 2} for number in range(size)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / domain / f"{split}.jsonl").write_text(lines)


def write_model(folder: Path) -> None:
    """A BERT of two small layers that knows the words above."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word for things in THINGS.values() for thing in things for word in thing.split()} | set(FILLERS)
    words |= {word for by_domain in WORDS.values() for some in by_domain.values() for word in some}
    vocabulary = {
        word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "example")
    write_data(target / "data")
    write_model(target / "model")
