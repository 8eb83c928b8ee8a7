"""The host: a pretrained language model with its tokenizer, seen the same way for every family."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nacre import processes
from nacre.errors import ModelError
from nacre.models.architectures import architecture_of, config_of, model_types_of
from nacre.models.batch import Batch
from nacre.models.classification_head import ClassificationHead
from nacre.models.classifier import Classifier
from nacre.models.encoder_only import EncoderOnly, is_encoder
from nacre.models.families import Encoded, Family, Tokenizer
from nacre.models.generative import DecoderOnly, EncoderDecoder, Generative
from nacre.models.label_tree import Labels
from nacre.models.loaded_as import LoadedAs
from nacre.models.mlm_head import has_mlm_head, mlm_head_of
from nacre.models.named import HeadKind
from nacre.models.sampling import Sampling
from nacre.models.self_check import find_ways
from nacre.models.sharding import shard_layers
from nacre.models.vocabulary import check_vocabulary
from nacre.models.ways import by_length
from nacre.seeds import derive

R = TypeVar("R")

WRAPPED = {"_orig_mod": "torch.compile's wrapper", "module": "a wrapper (DataParallel and its like)"}
"""Under which name a wrapper holds the model. Adapters change the model's own maps, and hashes have their names."""

AS_IT_IS = LoadedAs()

_CLAIMED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""By body: who learns in it. Beside the hosts, because several may hold one model."""


class Host:
    """A pretrained model, its tokenizer and its family.

    `model` is what is run and learns; `body` is what was pretrained, and where adapters are placed. They differ in
    encoder-only hosts, where the model is a `Classifier` around the body.

    Attributes:
        name: What the user called it.
        folder: Where it was loaded from; None if not from a folder.
        loaded_as: How it is held in memory, where it was loaded by its name.
        family: How text becomes tensors and tensors become answers here.
        model: What is run.
        tokenizer: The model's.
        is_sharded: Whether each process holds a part of its layers, so that none can compute without the others.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        name: str = "",
        folder: Path | None = None,
        loaded_as: LoadedAs = AS_IT_IS,
    ) -> None:
        """A host of a model that is already loaded.

        Args:
            model: A Hugging Face model with a language-model head, or an encoder without pooler, bare or with its
                masked-LM head, on its device.
            tokenizer: Its tokenizer.
            name: What to call it; by default what its configuration says.
            folder: Where it lies.
            loaded_as: How it is held in memory, where it was loaded by its name.

        Raises:
            ModelError: If there is no family for it, if it carries PEFT's adapters, or if the tokenizer is another
                model's.
        """
        _check_bare(model)
        self.name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.folder = folder
        self.loaded_as = loaded_as
        self.family = _family(model, tokenizer)
        self.model = self.family.model
        self.tokenizer = tokenizer
        self._settled = False
        check_vocabulary(self.body, tokenizer)
        self.is_sharded = False
        # On CPUs bitsandbytes orders weights anew when they are first used: the hash is taken before.
        self._loaded_hash = None if loaded_as.quantization == "none" else self.fingerprint

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.family.name})"

    @property
    def body(self) -> nn.Module:
        """What was pretrained, and where adapters are placed."""
        return self.model.encoder if isinstance(self.model, Classifier) else self.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def move_to(self, device: torch.device) -> None:
        """Put the model on a device. A quantized one was loaded where it is."""
        if next(self.model.parameters()).is_meta:
            raise ModelError(f"Host '{self.name}' was loaded without values: shard it first, in several processes.")
        if self.loaded_as.quantization == "none":
            self.model.to(device)

    def shard(self) -> None:
        """Cut the layers over all processes, before a learner learns in them. The host then answers as the first one's.

        With one process, nothing is cut.

        Raises:
            ModelError: If the model cannot be cut.
        """
        if self.is_sharded or processes.count() == 1:
            return
        if self.loaded_as.quantization != "none":
            raise ModelError(
                "Quantized weights cannot be sharded: bitsandbytes keeps each as one piece. Leave model_quantization "
                "at none, or give every process the whole model."
            )
        self._loaded_hash = processes.by_first(lambda: self.fingerprint)  # while it has all weights
        shard_layers(self.model)
        self.is_sharded = True

    def check_whole(self, what: str) -> None:
        """Check that this process has all of the model.

        Args:
            what: What needs that, as the beginning of a sentence.

        Raises:
            ModelError: If the host is sharded.
        """
        if self.is_sharded:
            raise ModelError(
                f"{what} needs the whole host, of which each process holds a part here: go on without sharding."
            )

    def compute_again(self, wanted: bool) -> None:
        """Whether training keeps what enters a layer alone, and computes the rest again in the backward pass.

        Raises:
            ModelError: If the architecture cannot do that.
        """
        if not getattr(self.body, "supports_gradient_checkpointing", False):
            raise ModelError(
                f"optim.gradient_checkpointing: transformers does not know how to do that in '{self.name}' "
                f"({config_of(self.model).model_type}); raise optim.accumulation instead."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions call it by another name, older ones do not
            if wanted:
                self.body.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            else:
                self.body.gradient_checkpointing_disable()  # type: ignore[operator]

    @property
    def fingerprint(self) -> str:
        """Which weights these are: `fingerprint_of` the pretrained tensors as they are now."""
        return self.fingerprint_of(self.body.state_dict())

    @staticmethod
    def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
        """sha256 over the tensors' names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def pretrained_hash(self, pristine: Callable[[], Mapping[str, Tensor]]) -> str:
        """Which pretrained model this is: `fingerprint_of` its tensors, as they were loaded.

        Args:
            pristine: Gives the bare host's tensors.
        """
        return self._loaded_hash or self.fingerprint_of(pristine())

    def claim(self, name: str) -> None:
        """Note that a learner learns in this model.

        Args:
            name: What to call the learner, such as its method's name.

        Raises:
            ModelError: If another one does already, be it by another host.
        """
        if (other := _CLAIMED.get(self.body)) is not None:
            raise ModelError(f"This model already carries a learner ({other}): call its remove() first.")
        _CLAIMED[self.body] = name

    def release(self) -> None:
        """Note that no learner learns in this model any more."""
        _CLAIMED.pop(self.body, None)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, another learner may learn in this model, and must be gone in the end; then the first has it again."""
        name = _CLAIMED.pop(self.body)
        try:
            yield
        finally:
            _CLAIMED[self.body] = name

    def use_head(self, kind: HeadKind) -> ClassificationHead | None:
        """The classification head, switched to this kind and without anything learned; None where answers are written.

        Raises:
            ModelError: If a head for each task is wanted of a generative host.
        """
        head = self.family.head
        if head is not None:
            head.use(kind)
            head.load({}, {})
        elif kind != "growing":
            raise ModelError(
                f"head={kind}: an {self.family.name} host writes its answers and has no head to choose them by. Take "
                "an encoder-only model, or leave 'head' at growing."
            )
        return head

    def on_device(self, batch: Batch) -> Batch:
        """A batch of the family's, where the model is."""
        return batch.to(self.device)

    def read(
        self, rows: Sequence[Encoded], reader: Callable[[Batch, Sequence[int]], Iterable[R]], *, apart: bool = False
    ) -> list[R]:
        """Read rows' inputs as one batch, or, where the architecture reads padding, as a batch for each length.

        Args:
            rows: Their sources are what is read.
            reader: Gives a result for each row of a batch. It is also given the rows' places among all of them.
            apart: Whether rows of unlike length must not share a batch even so.

        Returns:
            The results in the order of the rows.
        """

        def together(places: Sequence[int]) -> Iterable[R]:
            return reader(self.on_device(self.family.prompts([rows[place] for place in places])), places)

        places = range(len(rows))
        if self.family.ways.padded and not apart:
            return list(together(places))
        sizes = [len(row.source) + len(self.family.prefix_of(row.task)) for row in rows]
        return by_length(places, sizes.__getitem__, together)

    def settle(self) -> bool:
        """Find out how the architecture can be run in batches, where nothing is known of it; only the first time.

        Returns:
            Whether something was found just now that has to be done in another way; see `unlike`.

        Raises:
            ModelError: If it cannot be trained, or does not answer as it is trained.
        """
        if self._settled or not isinstance(self.family, Generative) or architecture_of(self.model.config) is not None:
            return False
        self.family.ways = find_ways(self.family, self.device)
        self._settled = True
        return bool(self.unlike)

    @property
    def unlike(self) -> str:
        """What is done in another way than with known architectures, in a sentence; empty if nothing is."""
        instead = self.family.ways.described()
        kind = config_of(self.model).model_type
        return instead and f"The architecture '{kind}' was compared with itself, row by row, and differs: {instead}."

    @torch.inference_mode()
    def write(self, rows: Sequence[Encoded], max_new_tokens: int) -> list[str]:
        """Answers to the rows' inputs, one batch: greedy, at most `max_new_tokens` tokens each.

        An encoder-only host's answers are labels.
        """
        return self.read(rows, lambda prompts, _: self.family.answers(prompts, max_new_tokens))

    @torch.inference_mode()
    def sample(
        self,
        rows: Sequence[Encoded],
        count: int,
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        top_k: int | None = None,
        temperature: float = 1.0,
    ) -> list[list[str]]:
        """Sampled answers to the rows' inputs, one batch of `count` sequences a row.

        Number j of a row's answers is drawn from the row's seed and j alone. So it is the same however the rows are cut
        into batches, and whether earlier rows were sampled in this process or in one that stopped.

        Args:
            rows: Their sources are what is answered.
            count: How many answers a row gets.
            seeds: One for each row, such as `derive(seed, "pseudo-samples", task, number)`.
            max_new_tokens: At most so many tokens an answer.
            top_k: Among so many most likely tokens each is drawn; None: among all.
            temperature: The logits are divided by it.

        Returns:
            Each row's answers.

        Raises:
            ModelError: If the host does not write, or a setting has no meaning.
        """
        if not isinstance(self.family, Generative):
            raise ModelError(
                f"'{self.name}' is {self.family.name} and cannot write samples: take an encoder-decoder or a "
                "decoder-only model."
            )
        family, sampling = self.family, Sampling(max_new_tokens, top_k, temperature)
        own = [derive(seed, "sample", number) for _, seed in zip(rows, seeds, strict=True) for number in range(count)]

        def drawn(prompts: Batch, places: Sequence[int]) -> list[str]:
            return family.samples(prompts, sampling, [own[place] for place in places])

        texts = self.read([row for row in rows for _ in range(count)], drawn)
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    def read_for_labels(
        self, rows: Sequence[Encoded], reader: Callable[[Batch, Sequence[int]], Iterable[R]]
    ) -> list[R]:
        """Read rows' inputs in batches whose labels can be compared; see `read`.

        Raises:
            ModelError: If the host is sharded, and a gradient would lead through keys and values that are kept for all
                labels: FSDP gathers a layer again for what leaves it, and they do not.
        """
        if torch.is_grad_enabled() and isinstance(self.family, DecoderOnly):
            self.check_whole("Training on label scores")
        self.family.ways.check_labels()
        return self.read(rows, reader, apart=not self.family.ways.labels_cached)

    @torch.inference_mode()
    def choose(self, rows: Sequence[Encoded], reader: Callable[[Batch, Sequence[int]], Iterable[R]]) -> list[R]:
        """The same without gradients."""
        return self.read_for_labels(rows, reader)

    def classify(self, rows: Sequence[Encoded], labels: Labels) -> list[int | None]:
        """The number of the most likely label for each row; None where the host knows none of them."""
        return self.choose(rows, lambda prompts, _: self.family.classify(prompts, labels))

    def label_scores(self, rows: Sequence[Encoded], labels: Labels) -> Tensor:
        """log p of each label for each row, [B, labels], with its graph where gradients are on. See the family's."""
        scores = self.read_for_labels(rows, lambda prompts, _: list(self.family.label_scores(prompts, labels)))
        return torch.stack(scores)


def _check_bare(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Host needs a model first, not a {type(model).__name__}: load_host(NAME) loads one by its name."
        )
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} carries adapters of PEFT, and nacre places its own: give the base model, or the "
            "merged one: peft_model.merge_and_unload()."
        )
    for inside, wrapper in WRAPPED.items():
        if isinstance(getattr(model, inside, None), nn.Module):
            raise ModelError(f"{type(model).__name__} is {wrapper} around a model: give the model, model.{inside}.")
    if not hasattr(model, "config"):
        raise ModelError(f"{type(model).__name__} is no model of Hugging Face's: it has no config.")


def _family(model: nn.Module, tokenizer: Tokenizer) -> Family:
    if isinstance(model, Classifier):
        return EncoderOnly(model, tokenizer)
    if is_encoder(model.config) and has_mlm_head(model):
        return EncoderOnly(Classifier(model.base_model, mlm_head_of(model, pretrained=True)), tokenizer)  # type: ignore[arg-type]
    if is_encoder(model.config) and getattr(model, "base_model", None) is model:
        if getattr(model, "pooler", None) is not None:
            raise ModelError(
                f"{type(model).__name__} has a pooler, which nacre does not use and full fine-tuning could not train: "
                "load it with AutoModel.from_pretrained(..., add_pooling_layer=False)."
            )
        return EncoderOnly(Classifier(model), tokenizer)
    if not hasattr(model, "generate") or not getattr(model, "can_generate", lambda: False)():
        encoders = ", ".join(model_types_of("encoder-only"))
        raise ModelError(
            f"{type(model).__name__} cannot write text: nacre needs an encoder-decoder or a decoder-only model with "
            f"its language-model head, or an encoder ({encoders}), bare or with its masked-LM head."
        )
    return EncoderDecoder(model, tokenizer) if config_of(model).is_encoder_decoder else DecoderOnly(model, tokenizer)
