"""The proof that two models are the same: every layer of both compared. See ``engine`` and the ``check_*`` scripts."""
