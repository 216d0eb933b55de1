"""A BERT of 2 layers and width 32 with its own tokenizer, saved as a model folder; a small table; and test streams."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from client.training.dpsgd import Engine
from client.training.encoder_top import build_top
from client.training.examples import Examples
from client.training.model_folder import model_digest
from client.work import RoundSpec, WorkSpec
from compliance.canonical import sha256_hex
from compliance.task_spec import SequenceClassification
from compliance.training_spec import Adapters, FeatureConstants, ModelSpec

WIDTH = 32
torch.set_num_threads(1)
TARGETS = ("attention.self.value", "output.dense")


def save_tiny_bert(folder: Path) -> Path:
    """Write the model folder."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tsh", "age", "low", "high", ".", *"0123456789"]
    vocab = {w: i for i, w in enumerate([*words, *(f"##{d}" for d in range(10))])}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def tiny_task(**changes: object) -> SequenceClassification:
    """Two classes; the text names TSH and age."""
    fields = {
        "kind": "sequence_classification",
        "labels": ("no", "yes"),
        "label_column": "target",
        "label_values": {"-": "no"},
        "label_other": "yes",
        "template": "[TSH {TSH}.][ age {age}]",
        "max_tokens": 12,
    }
    return SequenceClassification(**{**fields, **changes})


def tiny_model(folder: Path, *, adapters: bool = True, layers: int = 1) -> ModelSpec:
    """LoRA of rank 2 on the last layer, or the head only."""
    return ModelSpec(
        name="tiny",
        sha256=model_digest(folder),
        pooling="mean",
        adapters=Adapters(layers=layers, rank=2, scale_milli=2000, targets=TARGETS, init_seed=3) if adapters else None,
        features=FeatureConstants(source="none", mean_micro=(0,) * WIDTH, deviation_micro=(10**6,) * WIDTH),
        feature_norm_milli=3000,
    )


def tiny_round(**changes: object) -> RoundSpec:
    """Four steps with q = 1/4."""
    fields = {
        "round": 1,
        "attempt": 1,
        "steps": 4,
        "sample_numerator": 1,
        "sample_denominator": 4,
        "expected_batch": 10,
        "clip_micro": 1_000_000,
        "noise_multiplier_micro": 1_000_000,
        "physical_batch": 4,
        "head_rate_milli": 1000,
        "adapter_rate_milli": 1000,
    }
    return RoundSpec(**{**fields, **changes})


def tiny_examples(count: int = 40, seed: int = 0) -> Examples:
    """Random trunk outputs of 6 tokens, of which 2 to 6 are real."""
    rng = np.random.default_rng(seed)
    hidden = torch.from_numpy(rng.normal(size=(count, 6, WIDTH)).astype(np.float32))
    mask = torch.from_numpy((np.arange(6) < rng.integers(2, 7, (count, 1))).astype(np.float32))
    return Examples({"hidden": hidden, "mask": mask}, torch.from_numpy(rng.integers(0, 2, count)))


def tiny_engine(folder: Path, examples: Examples | None = None, *, adapters: bool = True) -> Engine:
    """An engine on the CPU."""
    top = build_top(tiny_model(folder, adapters=adapters), folder, 2)
    return Engine(top, examples or tiny_examples(), torch.device("cpu"))


def write_table(path: Path, rows: int = 40) -> Path:
    """A CSV with TSH (some missing), age, target and a patient number."""
    rng = np.random.default_rng(1)
    lines = ["TSH,age,target,patient_id"]
    for i in range(rows):
        tsh = "" if i % 7 == 0 else f"{rng.uniform(0, 9):.1f}"
        lines.append(f"{tsh},{rng.integers(20, 90)},{'-' if i % 3 else 'K'},{9000 + i}")
    path.write_text("\n".join(lines) + "\n")
    return path


def tiny_work(root: Path, folder: Path) -> WorkSpec:
    """A worker's specification over the tiny model and table."""
    table = write_table(root / "table.csv")
    return WorkSpec(
        task=tiny_task(),
        model=tiny_model(folder),
        model_dir=str(folder),
        table=str(table),
        table_sha256=sha256_hex(table.read_bytes()),
        cache_dir=str(root / "cache"),
        threads=1,
        first_round=tiny_round(physical_batch=16),
    )


class SeededStream:
    """A stream that repeats: exists in tests only."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.mark = f"seed-{seed}-{id(self)}"

    def words(self, count: int) -> np.ndarray:
        """See `Stream.words`."""
        return self._rng.integers(0, 2**64, count, dtype=np.uint64)


def trained_start(size: int, seed: int = 2) -> np.ndarray:
    """A global vector away from zero, so that the adapters' gradients are not zero."""
    return np.random.default_rng(seed).normal(0, 0.3, size).astype(np.float32)
