"""Edits for others: a whole edited model, or an adapter beside the unedited one."""
