"""DPO from top to bottom in one file: what `tandem run dpo` does, without recipes and runs.

    python examples/dpo_in_one_file.py

A model of a million parameters that writes summaries in a small language is sampled twice on each
prompt. A judge who knows the truth says which summary is better. The model is then fitted to
these preferences with the loss of Rafailov et al. 2023 (arXiv:2305.18290, equation 7):

    L = -log sigma(beta (h_w - h_l)),    h = log pi(y | x) - log pi_ref(y | x)
"""

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from tandem.batching.packing import pack_groups
from tandem.data.groups import Groups
from tandem.data.record import Group, Preference
from tandem.engines import Sampling
from tandem.machine import Machine
from tandem.models.opening import open_policy
from tandem.rng import Seed
from tandem.runs.events import Silent
from tandem.stages.sampling import sample
from tandem.tasks import Sizes
from tandem.tasks.load import load_task

BETA, RATE, EPOCHS, BATCH = 0.1, 3e-4, 4, 16
MACHINE, SEED = Machine(device="cpu", precision="fp32"), Seed(0)


def labelled(group: Group) -> Group | None:
    """Turn the judge's two scores into a preference; a tie teaches nothing."""
    first, second = group.scores
    if first == second:
        return None
    vote = Preference(0, 1, p=float(first > second))
    return Group(group.prompt, group.completions, preferences=(vote,))


def main(prompts: int = 64) -> list[float]:
    """Train, print each epoch, and return the mean margin h_w - h_l of every epoch, in nats."""
    # 1. data: two samples a prompt, judged
    task = load_task("micro", Sizes(demonstrations=1, pairs=1, prompts=prompts), SEED)
    drawn = sample(
        task.base, task.prompts, n=2, sampling=Sampling(max_tokens=32),
        seed=SEED.at("pairs"), machine=MACHINE, events=Silent(),
    )  # fmt: skip
    pairs = Groups.of(g for g in map(labelled, task.truth(drawn)) if g is not None)
    print(f"{len(pairs)} preferences, from {prompts} prompts")

    # 2. the policy, and the log-probabilities of the frozen reference, which it still is
    policy = open_policy(task.base.path, MACHINE, train=True)
    starts = range(0, len(pairs), BATCH)
    batches = [pack_groups(list(pairs[k : k + BATCH]), policy.layout) for k in starts]
    with torch.no_grad():
        reference = [policy(batch.tokens).logp for batch in batches]

    # 3. gradient steps on the loss
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    margins: list[float] = []
    for epoch in range(EPOCHS):
        margin: list[float] = []
        for k in SEED.at("epoch", epoch).rng().permutation(len(batches)):
            pairs_of = batches[k].pairs
            h = (policy(batches[k].tokens).logp - reference[k]).sum()  # one number a completion
            d = h[pairs_of.w] - h[pairs_of.l]
            loss = -logsigmoid(BETA * d).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            margin.append(float(d.detach().mean()))
        margins.append(float(np.mean(margin)))
        print(f"epoch {epoch + 1}: last loss {loss.item():.3f}, margin {margins[-1]:+.2f} nats")
    return margins


if __name__ == "__main__":
    main()
