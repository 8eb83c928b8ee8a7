"""An encoder with a head that grows: the model of an encoder-only host."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from nacre.models.growing_head import GrowingHead


class Classifier(nn.Module):
    """Logits of all classes seen so far, from the first token's last hidden state ([CLS], <s>).

    encoder: a bare Hugging Face encoder, without pooler. head: empty until a task with labels is learnt.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = GrowingHead(int(self.config.hidden_size), next(encoder.parameters()))
        self.train(encoder.training)

    @property
    def config(self) -> Any:
        return self.encoder.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:  # [B, S] -> [B, C]
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.head(hidden[:, 0]))
