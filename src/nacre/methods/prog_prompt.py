"""ProgPrompt: a soft prompt a task, read together with those of the tasks before it."""

from nacre.adapters.prompt import Prompt
from nacre.method import Method, method


@method
def prog_prompt(*, prompt_length: int = 10, bottleneck: int | None = None) -> Method:
    """Progressive Prompts: a new soft prompt for each task, in front of the frozen ones of earlier tasks.

    The host is frozen. The task is given in training and at test, and an earlier task's answers never change.

    Equations:
        input of task t: [P_t ; P_{t-1} ; ... ; P_1 ; E(x)], P_i in R^{l x d}, newest first
        loss = -log p(y | input), of which only P_t is trained
        with a bottleneck b: P_t = P + W_2 relu(W_1 P + b_1) + b_2, W_1 in R^{b x d}
            P, W_i and b_i are trained; after the task P_t alone is kept
        At test, task j has the input that it had in training: no later prompt.

    Args:
        prompt_length: l, tokens of each task's prompt.
        bottleneck: b of the MLP that a new prompt is trained through (800 in the paper); null trains it itself.

    Assumed:
        - A prompt begins as the embeddings of random words, and is trained for the given epochs. The release keeps the
          prompt of the epoch that was best on validation rows.
        - Only the text of an input is cut where it is too long, never the prompts; the release cuts the end of both
          together.
        - Earlier tasks are answered with their own prompts. The release tests each task once, right after learning it,
          or with later prompts in front.
        - In encoder-only hosts the prompts stand behind the first token, which the head reads; each task's own head is
          `head=per_task`. The release also trains their word embeddings.
        - The MLP has no layer norm, which the paper leaves optional.

    Sources:
        Progressive Prompts (arXiv 2301.12314), section 3; 10 tokens, rate 0.3 and AdamW as released for T5-large.
    """
    adapter = Prompt(tokens=prompt_length, slots="per_task", concatenate=True, bottleneck=bottleneck)
    return Method(title="ProgPrompt (progressive prompts)", sources=("arXiv 2301.12314",), adapter=adapter)
