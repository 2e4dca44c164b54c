"""Places inside a model, and the one file that spells hook names.

A `Site` names the output of one part of the model in the field's words; `hook_name` turns it into TransformerLens's.
Everything else in Factscope speaks of sites.

    tokens              what the embedding reads: token ids                [row, pos]
    embed               token embeddings, before positions are added      [row, pos, d_model]
    resid_pre, resid    the residual stream before and after a block      [row, pos, d_model]
    mlp, attn           what a block's MLP or attention adds to it        [row, pos, d_model]
    head                one head's attention-weighted values (z)          [row, pos, head, d_head]
    pattern             attention probabilities                           [row, head, query, key]
    mlp_hidden          the MLP's hidden activations, its down-projection's input [row, pos, d_mlp]
    mlp_read            what the MLP reads, after its norm                    [row, pos, d_model]
    mlp_gate, mlp_up    what its gate and its up-projection write         [row, pos, d_mlp]
    mlp_write           the down-projection's output, before any norm that follows it   [row, pos, d_model]
    q_read ... v_read   what a layer's query, key and value projections read, after its norm [row, pos, d_model]
    q_write ... v_write what they write, before any rotation                [row, pos, head, d_head]
    o_read, o_write     what attention's output projection reads and writes [row, pos, head, d_head], [.., d_model]
    head_result         each head's write to the residual stream (flag)   [row, pos, head, d_model]
    q_input ... v_input what each reader reads, before its norm (flag)    [row, pos, head, d_model]
    mlp_in              what the MLP reads, before its norm (flag)        [row, pos, d_model]

Where a model normalises after a sub-layer (Gemma-2 and -3), `mlp` and `attn` are what reaches the residual stream.
"""

from dataclasses import dataclass

_HOOKS = {
    "tokens": "embed.hook_in",
    "embed": "hook_embed",
    "resid_pre": "blocks.{}.hook_in",
    "resid": "blocks.{}.hook_out",
    "mlp": "blocks.{}.hook_mlp_out",
    "attn": "blocks.{}.hook_attn_out",
    "head": "blocks.{}.attn.hook_z",
    "pattern": "blocks.{}.attn.hook_pattern",
    "mlp_hidden": "blocks.{}.mlp.out.hook_in",
    "mlp_read": "blocks.{}.mlp.hook_in",
    "mlp_write": "blocks.{}.mlp.out.hook_out",
    "mlp_gate": "blocks.{}.mlp.gate.hook_out",
    "mlp_up": "blocks.{}.mlp.in.hook_out",
    "q_read": "blocks.{}.attn.q.hook_in",
    "q_write": "blocks.{}.attn.q.hook_out",
    "k_read": "blocks.{}.attn.k.hook_in",
    "k_write": "blocks.{}.attn.k.hook_out",
    "v_read": "blocks.{}.attn.v.hook_in",
    "v_write": "blocks.{}.attn.v.hook_out",
    "o_read": "blocks.{}.attn.o.hook_in",
    "o_write": "blocks.{}.attn.o.hook_out",
    "head_result": "blocks.{}.attn.hook_result",
    "q_input": "blocks.{}.attn.hook_q_input",
    "k_input": "blocks.{}.attn.hook_k_input",
    "v_input": "blocks.{}.attn.hook_v_input",
    "mlp_in": "blocks.{}.hook_mlp_in",
}
_FLAGS = {
    "head_result": "use_attn_result",
    "q_input": "use_split_qkv_input",
    "k_input": "use_split_qkv_input",
    "v_input": "use_split_qkv_input",
    "mlp_in": "use_hook_mlp_in",
}


@dataclass(frozen=True)
class Site:
    """One place: its kind (see the module's table), its layer, and for `head` and the readers, which head."""

    kind: str
    layer: int = 0
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _HOOKS:
            raise ValueError(f"no site kind {self.kind!r}; there are {', '.join(_HOOKS)}")

    def __str__(self) -> str:
        if self.kind in ("tokens", "embed"):
            return self.kind
        return f"{self.kind}{self.layer}" + (f".h{self.head}" if self.head is not None else "")


def hook_name(site: Site) -> str:
    """TransformerLens's name for the hook at `site`."""
    return _HOOKS[site.kind].format(site.layer)


def flag_of(site: Site) -> str | None:
    """The model flag that must be on for the hook at `site` to fire, or None."""
    return _FLAGS.get(site.kind)
