"""The comparison itself; it knows no model. The core knows no framework: one ``capture_*`` file for each."""
