from vlrl.scoring.scorer import Scorer

__all__ = ["Scorer"]
