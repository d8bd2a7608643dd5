"""RFD4-Proteina: a protein backbone denoiser whose trunk may run several times a forward."""

from functools import partial

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, ZooCase
from .draw import Draw


def _proteina(draw: Draw, recycle_depth: int) -> Blueprint:
    batch, residues = 2, 9
    config = {
        "nlayers": BLOCKS,
        "token_dim": 32,
        "nheads": 2,
        "dim_cond": 16,
        "pair_repr_dim": 16,
        "latent_dim": 4,
        "token_type_emb_dim": 8,
        "cath_emb_dim": 8,
        "t_emb_dim": 16,
        "seq_sep_dim": 8,
        "xt_pair_dist_dim": 6,
        "tri_mult_c": 8,
        "feats_seq": ("xt_bb_ca", "xt_local_latents", "token_type"),
        "feats_cond_seq": ("time_emb_bb_ca", "time_emb_local_latents"),
        "feats_pair_repr": ("xt_bb_ca_pair_dists",),
    }
    inputs = {
        "bb_ca": draw.normal(batch, residues, 3),
        "local_latents": draw.normal(batch, residues, 4),
        "bb_ca_time": draw.uniform(batch),
        "local_latents_time": draw.uniform(batch),
        "padding_mask": torch.ones(batch, residues, dtype=torch.bool),
        "token_type": torch.zeros(batch, residues, dtype=torch.long),
        "conditioning": {
            "is_in_context_conditioning": torch.zeros(batch, residues, dtype=torch.bool),
            "supports_local_latent": torch.ones(batch, residues, dtype=torch.bool),
        },
        "recycle_depth": recycle_depth,
    }
    return Blueprint(transformers.RFD4ProteinaTransformer, config, inputs)


_case = partial(
    ZooCase,
    latent_names=("bb_ca", "local_latents"),
    timestep_names=("bb_ca_time", "local_latents_time"),
)

CASES: tuple[ZooCase, ...] = (
    _case("RFD4ProteinaTransformer", partial(_proteina, recycle_depth=0)),
    _case("RFD4ProteinaTransformer:recycle3", partial(_proteina, recycle_depth=3)),
)
