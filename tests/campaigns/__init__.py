"""Campaigns: the product attacked in bulk, with every seed printed; docs/campaigns.md is what they found."""
