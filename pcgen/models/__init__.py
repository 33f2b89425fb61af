"""Models: PointFlow with its encoder and objectives; PolarMask3D, its oracle, and clustering to compare with."""

from pcgen.models.clustering import ClusteringConfig, Clusters, cluster, cluster_instances
from pcgen.models.conditioning import Condition, ConditionConfig
from pcgen.models.config import Likelihood, PointFlowConfig, Samples
from pcgen.models.coupled import coupled_once
from pcgen.models.encoder import Encoder, EncoderConfig, Posterior
from pcgen.models.instances import DecodingConfig, Instances
from pcgen.models.objective import Loss, ObjectiveConfig, draw_codes
from pcgen.models.oracle import OracleScene, OracleScores, encode_and_decode, oracle_scores
from pcgen.models.pointflow import PointFlow
from pcgen.models.polar_targets import LabelledCloud, PolarBatch, collate
from pcgen.models.polarmask3d import PolarMask3D, PolarMask3DConfig
from pcgen.models.reflow import ReflowPairs, reflow_loss, reflow_pairs
from pcgen.models.segmenter import Domain, Segmenter, load_segmenter, save_segmenter
from pcgen.models.tiling import segment_scan
from pcgen.models.tuning import tune_decoding

__all__ = [
    "ClusteringConfig",
    "Clusters",
    "Condition",
    "ConditionConfig",
    "DecodingConfig",
    "Domain",
    "Encoder",
    "EncoderConfig",
    "Instances",
    "LabelledCloud",
    "Likelihood",
    "Loss",
    "ObjectiveConfig",
    "OracleScene",
    "OracleScores",
    "PointFlow",
    "PointFlowConfig",
    "PolarBatch",
    "PolarMask3D",
    "PolarMask3DConfig",
    "Posterior",
    "ReflowPairs",
    "Samples",
    "Segmenter",
    "cluster",
    "cluster_instances",
    "collate",
    "coupled_once",
    "draw_codes",
    "encode_and_decode",
    "load_segmenter",
    "oracle_scores",
    "reflow_loss",
    "reflow_pairs",
    "save_segmenter",
    "segment_scan",
    "tune_decoding",
]
