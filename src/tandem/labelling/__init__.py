"""People judge: a labelling page, the votes that it keeps, and what is made of them.

    tandem label demo                              # try it; prints an address
    tandem label serve preferences.jsonl --out labels/first
    tandem label export labels/first               # groups, pairs, votes and a card

    records       what is read from and written for the rest of Tandem (the only door)
    schema        the tables; migrations/ brings an older database up to them
    database      SQLite or PostgreSQL: one transaction at a time writes
    questions     groups -> items that are asked
    people        accounts, invitations, sessions; names are kept apart from votes
    assignment    who is asked what next: leases, overlap, gold, order
    votes         append-only events: vote, edit, undo, skip
    agreement     percent, kappa, alpha; habits of each annotator
    annotators    Dawid-Skene: how good each annotator is, and a probability for each label
    export        groups, TRL's pairs, the votes table, a card
    backup        a copy under load, and its restoration
    server        the application; routes/ and page/ are what it serves

The extra `tandem-rlhf[label]` brings what is needed. Nothing here loads torch.
"""
