"""Leaderboards: from records to tables, figures and a page; and the checks that records pass."""
