"""An encoder with its two heads: the model of an encoder-only host."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutput

from nacre.models.growing_head import GrowingHead
from nacre.models.label_head import LabelHead
from nacre.models.mlm_head import MlmHead


class Classifier(nn.Module):
    """Logits of all classes seen so far, from the first token's last hidden state ([CLS], <s>).

    At given positions of a text: logits of all tokens.

    Attributes:
        encoder: A bare Hugging Face encoder, without pooler.
        head: Its output layer over labels, empty until a task with labels is learned. `ClassificationHead` changes it.
        mlm_head: Its masked-LM head; None until a text is learned or measured, where the encoder came without one.
    """

    def __init__(self, encoder: nn.Module, mlm_head: MlmHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: LabelHead = GrowingHead(int(self.config.hidden_size), next(encoder.parameters()))
        self.mlm_head = mlm_head
        self.train(encoder.training)

    @property
    def config(self) -> Any:
        """The encoder's."""
        return self.encoder.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> SequenceClassifierOutput | MaskedLMOutput:
        """Logits of classes, or of tokens.

        Args:
            input_ids: [B, S].
            attention_mask: [B, S].
            positions: Of k hidden tokens among the B * S tokens [k]. Only those go through the output layer, which is
                the costliest map of a small model.
            tasks: The number of each row's task [B]; see `TaskHeads`.

        Returns:
            Logits [B, C] of the classes or, given positions, [k, V] of the tokens there.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if positions is None:
            return SequenceClassifierOutput(logits=self.head(hidden[:, 0], tasks))
        assert self.mlm_head is not None
        return MaskedLMOutput(logits=self.mlm_head(hidden.flatten(0, 1)[positions]))
