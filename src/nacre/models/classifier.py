"""An encoder with its two heads: the model of an encoder-only host."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from nacre.models.families import HeadKind
from nacre.models.growing_head import GrowingHead
from nacre.models.masked_lm import TokenHead, new_token_head
from nacre.models.task_heads import TaskHeads

HEADS: dict[HeadKind, type[GrowingHead]] = {"growing": GrowingHead, "per_task": TaskHeads}


class Classifier(nn.Module):
    """Logits of all classes seen so far, from the first token's last hidden state ([CLS], <s>); or, at given places of
    a text, of all tokens.

    encoder: a bare Hugging Face encoder, without pooler. head: empty until a task with labels is learnt; it grows, or
    there is one for each task (``use_head``). token_head:
    its masked-LM head; None until a text is learnt or measured, where the encoder came without one.
    """

    def __init__(self, encoder: nn.Module, token_head: TokenHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = GrowingHead(int(self.config.hidden_size), next(encoder.parameters()))
        self.token_head = token_head
        self.train(encoder.training)

    @property
    def config(self) -> Any:
        return self.encoder.config

    def use_head(self, kind: HeadKind) -> None:
        """Have a head of that kind: the present one, or a new and empty one in its place."""
        if type(self.head) is not HEADS[kind]:
            self.head = HEADS[kind](int(self.config.hidden_size), next(self.encoder.parameters())).train(self.training)

    def with_token_head(self) -> TokenHead:
        """The masked-LM head, made if there is none."""
        if self.token_head is None:
            self.token_head = new_token_head(self.encoder).train(self.training)
        return self.token_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        places: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> SequenceClassifierOutput | MaskedLMOutput:
        """Of [B, S]: logits [B, C] of the classes; or, given k places in the B * S tokens, [k, V] of the tokens there.
        Only those go through the output layer, which is the costliest map of a small model. tasks [B]: see
        ``TaskHeads``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if places is None:
            return SequenceClassifierOutput(logits=self.head(hidden[:, 0], tasks))
        assert self.token_head is not None
        return MaskedLMOutput(logits=self.token_head(hidden.flatten(0, 1)[places]))
