"""Corpora of recordings as instructions: FLEURS, CoVoST 2, MuST-C and Spoken-Alpaca, in the layouts that they are published in."""
