"""What a budget for labels should be spent on: worlds that cost nothing, and plans tried in them.

    tandem budget --total 5000 --cost_pair 1 --cost_demo 3
    tandem data select pool.parquet --model FOLDER --n 200 --out questions.parquet

    tabular_world   prompts, answers, features and a true reward, small enough for exact policies
    drift           the same where tastes, prompts or annotators change, and who keeps up
    label_plan      a plan: demonstrations, rounds, source, acquisition; its ledger
    simulation      one plan in one world: what was learned, what it cost, its regret
    budget          many plans in many worlds: advice with intervals
    pilot           a world made of the first labels of one's own

Only `pilot` loads torch. Pairs of a real pool are chosen in `stages.pair_pool`.
"""
