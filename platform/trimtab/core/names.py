"""The closed list of metric names.

Every number that reaches a tracker has its name here, so that runs of different models, jobs and
versions lie over each other in the MLflow UI. A name that is not listed is a programming error.

Metrics by layer are logged with step = layer. Each of them that has a best value also has
`peak/NAME` (the value) and `peak_layer/NAME` (where), logged once per run.
"""

from typing import Final

from trimtab.core.poles import FOUNDATIONS, POLES

CATEGORICAL: Final = (
    "categorical/cosine/mean",
    *(f"categorical/cosine/{foundation}" for foundation in FOUNDATIONS),
    "categorical/off_diagonal",
)
GRADIENT: Final = tuple(
    f"gradient/{statistic}/{of}"
    for statistic in ("spearman", "pearson")
    for of in ("mean", "pooled", *POLES)
)
GROUPINGS: Final = ("polarity", "foundation", "foundation_polarity")
AGREEMENTS: Final = ("ari", "nmi", "homogeneity", "completeness", "v_measure")
STRUCTURAL: Final = (
    *(f"structural/{score}/{grouping}" for score in AGREEMENTS for grouping in GROUPINGS),
    "structural/noise",
    "structural/clusters",
    "structural/components",
    "structural/rows",
)
DIMENSIONAL: Final = (
    "dimensional/r2",
    "dimensional/r2_adjusted",
    *(f"dimensional/r2_pole/{pole}" for pole in POLES),
    "dimensional/rows",
    "dimensional/width",
    "dimensional/ridge",
)
BY_LAYER: Final = frozenset((*CATEGORICAL, *GRADIENT, *STRUCTURAL, *DIMENSIONAL))

HIGHER_IS_PEAK: Final = (
    "gradient/spearman/mean",
    "gradient/spearman/pooled",
    *(f"gradient/spearman/{pole}" for pole in POLES),
    *(f"structural/ari/{grouping}" for grouping in GROUPINGS),
    "dimensional/r2",
)
LOWER_IS_PEAK: Final = (
    "categorical/cosine/mean",
    *(f"categorical/cosine/{foundation}" for foundation in FOUNDATIONS),
)
"""A low cosine between virtue and vice is the model telling them apart: its best layer."""

AT_A_GLANCE: Final = {
    "at_a_glance/categorical_cosine": "categorical/cosine/mean",
    "at_a_glance/gradient_spearman": "gradient/spearman/mean",
    "at_a_glance/structural_ari": "structural/ari/polarity",
    "at_a_glance/structural_noise": "structural/noise",
    "at_a_glance/dimensional_r2": "dimensional/r2",
}
"""The headline curves under one prefix: the MLflow UI makes one section of charts per prefix, in
alphabetical order, so that a comparison of runs opens with these five side by side."""

EXTRACTION: Final = (
    "extract/tokens",
    "extract/prompts",
    "extract/rows",
    "extract/seconds",
    "extract/tokens_per_second",
)
PRECISIONS: Final = ("nf4", "mxfp4", "int8", "uint8", "float16", "bfloat16", "float32")
HELD: Final = tuple(f"held_bytes/{precision}" for precision in (*PRECISIONS, "total"))
"""Bytes of weights that one worker really held after loading."""
DIMENSIONS: Final = ("fairness", "safety", "morality", "legality", "data_protection")
"""The parts of Flames."""
EVALUATION: Final = (
    *(
        f"evaluation/{name}/{of}"
        for name in (
            *("win_rate", "win_rate_low", "win_rate_high"),  # Wilson
            *("win_rate_bootstrap_low", "win_rate_bootstrap_high"),
            *("wins", "ties", "losses", "failed", "sign_p"),
            *("psc1", "safety", "safety_low", "safety_high", "safety_failed"),
            *("psc2", "emotion", "emotion_low", "emotion_high", "emotion_failed"),
        )
        for of in ("all", *DIMENSIONS)
    ),
    *(f"evaluation/position_bias{end}" for end in ("", "_low", "_high")),
)
"""Of one arm against the baseline; rates and means have the ends of their 95 % interval."""
FLUENCY: Final = (
    "fluency/perplexity",
    *(f"fluency/distinct_{n}" for n in (1, 2, 3)),
    "fluency/repetition",
    "fluency/longest_run",
    "fluency/length",
    "fluency/empty",
    "fluency/truncated",
)
"""Of one arm's answers; perplexity is under the unedited model."""
PAID: Final = tuple(
    f"judge/{name}" for name in ("asked", "attempts", "prompt_tokens", "completion_tokens", "cost")
)
"""What an endpoint was asked, and what it cost; sums over all times that it was asked."""
JUDGE: Final = (*PAID, "judge/cached", "judge/unanswered")
"""What became of the cases of one evaluation, or of one layer of a sweep."""
SWEEP: Final = tuple(f"sweep/{kind}" for kind in ("finished", "stopped", "failed", "killed"))
"""Trials of a sweep by how they ended, in its parent run."""
TRAINING: Final = (
    *(
        f"train/{name}"
        for name in (
            "loss",
            "mse",
            "fvu",
            "l0",
            "l1",
            "dead",
            "aux",
            "lambda",
            "learning_rate",
            "gradient_norm",
            "rows_per_second",
        )
    ),
    *(f"validation/{name}" for name in ("mse", "fvu", "l0", "dead")),
)
"""Learning curves of a sparse autoencoder; step = optimiser step."""
_QUALITY: Final = (
    *("mse", "explained_variance", "fvu", "cossim", "l2_norm_in", "l2_norm_out", "l2_ratio"),
    *("relative_reconstruction_bias", "l0", "l1", "frac_alive", "dead"),
    *("freq_over_1_percent", "freq_over_10_percent"),
)
_RECOVERED: Final = (
    *("ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation", "ce_loss_score"),
    *("kl_div_with_sae", "kl_div_with_ablation", "kl_div_score"),
)
SAE_QUALITY: Final = (
    *(f"sae/{name}" for name in (*_QUALITY, *_RECOVERED)),
    *(f"sae/token/{name}" for name in (*_QUALITY, "norm_ratio")),
)
"""Of a sparse autoencoder on held-out data, by SAEBench's names: on stored rows, by what it does to
the model's next tokens, and on the states of single tokens; step = layer."""
LATENT_SCORES: Final = (
    *("weak", "monosemantic", "polysemantic", "dead", "strict", "strongest"),
    *(f"prototypicality/{of}" for of in ("mean", *POLES)),
    *(f"pair_cosine/{of}" for of in ("mean", *FOUNDATIONS)),
    "rows",
)
LATENTS: Final = (
    *(f"latents/{name}" for name in LATENT_SCORES),
    *(
        f"latents/{c}/{of}"
        for c in ("chance", "low", "high", "p")
        for of in ("monosemantic", "above")
    ),
    "latents/above",
    *(f"latents/significant/{pole}" for pole in POLES),
)
"""Of an autoencoder's moral latents on the rows that identify them; step = layer."""
ALIGN_TERMS: Final = ("reconstruction", "sparsity", "align", "polarity", "prototype", "mono")
ALIGN_STAGES: Final = ("before", "after", "change", "reidentified")
ALIGNED: Final = (
    *(f"align/{stage}/{name}" for stage in ALIGN_STAGES for name in (*LATENT_SCORES, "mse", "fvu")),
    *(f"align/{of}/{term}" for of in ("train", "validation") for term in ("loss", *ALIGN_TERMS)),
    *(f"align/latents/{of}" for of in ("trained", "strict")),
)
"""Of an alignment: scores on held-out rows (step = layer), losses by epoch (step = epoch)."""
_RATES: Final = tuple(
    f"{name}{end}" for name in ("net", "win_rate") for end in ("", "_low", "_high")
)
STEER: Final = (
    *("steer/prompts", "steer/strength", "steer/net", "steer/net_low", "steer/net_high"),
    *(f"steer/{half}/{name}" for half in ("chosen", "held_out") for name in ("prompts", *_RATES)),
    "steer/best_alpha",
    "steer/best_layer",
)
"""Of one arm (net = (wins - losses) / judged), and of the strength that one half of the prompts
chose, on that half and on the other."""
NAMES: Final = BY_LAYER.union(
    AT_A_GLANCE,
    EVALUATION,
    FLUENCY,
    JUDGE,
    TRAINING,
    EXTRACTION,
    HELD,
    SWEEP,
    SAE_QUALITY,
    LATENTS,
    ALIGNED,
    STEER,
    *((f"peak/{name}", f"peak_layer/{name}") for name in (*HIGHER_IS_PEAK, *LOWER_IS_PEAK)),
)
