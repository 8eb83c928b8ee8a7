"""LFPT5: one soft prompt that answers and writes rows of earlier tasks, which are learned again."""

from nacre.adapters.prompt import Prompt, PromptPosition
from nacre.errors import RecipeError
from nacre.method import Method, method
from nacre.parts.old_answers import OldAnswers
from nacre.parts.part import BatchTerm
from nacre.parts.pseudo_rehearsal import PseudoRehearsal
from nacre.parts.row_writing import RowWriting
from nacre.parts.wording import Wording
from nacre.per_task import PerTask


@method
def lfpt5(
    *,
    prompt_length: int = 300,
    writing: PerTask = 0.25,
    distillation: float = 0.01,
    per_label: int = 2,
    draws: int = 16,
    top_k: int | None = 64,
    max_length: int = 128,
    cue: str = "Write an example of {task}.",
    separator: str = "Answer:",
    position: PromptPosition = "before",
) -> Method:
    """LFPT5: one soft prompt answers, and writes rows of earlier tasks that are learned again with each new one.

    The host is frozen. Nothing of earlier tasks is stored but how they are asked; no task is given at test.

    Equations:
        P in R^{l x d}, the only trained parameters, stands before every input, or after it
        L = (1 - lambda_kd) (L_task + lambda_lm L_lm) + lambda_kd L_kd
        L_task = -log p(y | P, x); L_lm = -log p("x A y" | P, G_k), G_k the cue of the row's task k, A the separator
        L_kd = sum over answer tokens and words of p_old (log p_old - log p_new), for written rows alone; p_old with the
            prompt as it was before the task
        Before task t, rows of each task k < t are sampled from p(. | P, G_k) and taken apart at A. They count if A
        stands in them once, and the answer is one of the task's labels.

    Args:
        prompt_length: l, tokens of the prompt.
        writing: lambda_lm; a list gives one for each task, 0 leaves the term out.
        distillation: lambda_kd, at least 0 and below 1; 0 leaves the term out.
        per_label: Rows of each label that are rehearsed, or of a task with free text.
        draws: Samples for each of these labels.
        top_k: Among so many most likely words each is drawn; null draws among all.
        max_length: Tokens of a written row, at most.
        cue: G_k; {task} stands for the task's name.
        separator: A, what stands between text and answer.
        position: Whether the prompt stands before the input, or after it as in the release, which only an
            encoder-decoder host reads.

    Assumed:
        - The prompt stands in front of the input, so that a decoder-only host reads it. The release appends it
          (`position=after`).
        - Where a row is too long to be written, its text loses its end, never the separator and the answer. The release
          reads at most 128 tokens of a text and writes rows of 256.
        - G_k and A are words. The release adds a token for each, with an embedding that is not trained.
        - L is divided by 1 - lambda_kd, so that the task loss keeps its weight; the optimizer does not see the
          difference.
        - L_kd is a sum over the vocabulary, and over answer tokens a mean, like the task loss. The release sums over
          padding, too, so that the weight depends on the batch.
        - All rows of a task are learned, and written rows are mixed into its epochs. The release takes 16 rows of each
          label, keeps 2 more written rows of each for validation, and takes the epoch that is best there.
        - Samples are drawn without a penalty for repetitions (2.5 in the release).
        - The prompt begins as the embeddings of random words; the release begins with the names of tasks and labels.
        - A sample's answer is compared without regard to case.

    Sources:
        LFPT5 (arXiv 2110.07298), section 3; l 300, lambda_lm 0.25, lambda_kd 0.01, 2 rows of each label, top-k 64 as
        released.
    """
    if not 0 <= distillation < 1:
        raise RecipeError(f"distillation = {distillation}: the share of the old answers is at least 0 and below 1.")
    wording = Wording(cue, separator, max_length)
    terms: list[BatchTerm] = []
    if writing != 0:
        terms.append(RowWriting(writing, wording))
    if distillation > 0:
        terms.append(OldAnswers(distillation / (1 - distillation)))
    return Method(
        title="LFPT5 (a prompt that rehearses what it writes)",
        sources=("arXiv 2110.07298",),
        adapter=Prompt(tokens=prompt_length, position=position),
        memory=PseudoRehearsal(wording, per_label, draws, top_k),
        batch_terms=tuple(terms),
    )
