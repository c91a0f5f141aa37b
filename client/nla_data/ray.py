"""What pipelines of Ray Data use: `VerbalizeBatches`, for `map_batches`. How, its module says."""

from nla_data.cluster.workers import VerbalizeBatches

__all__ = ["VerbalizeBatches"]
