"""The settings of the experiment trackers in a run file."""

from typing import Annotated, Literal

from pydantic import Field

from vlrl.common.settings import Section


class TrackerConfig(Section):
    """A copy of the run's log. tables_every: steps between two tables of rollouts; 0 for none."""

    tables_every: Annotated[int, Field(ge=0)] = 20


class WandbConfig(TrackerConfig):
    """The run's copy in wandb.

    mode: offline writes into the run's folder, without an account; online sends it to wandb; disabled writes none.
    project: the name of the project there.
    """

    mode: Literal["disabled", "offline", "online"] = "offline"
    project: str = "vlrl"


class TrackioConfig(TrackerConfig):
    """The run's copy in trackio.

    project: the name of the project. space_id: a Space of the hub to keep it in; null keeps it in the folder of all runs.
    """

    project: str = "vlrl"
    space_id: str | None = None


class MlflowConfig(TrackerConfig):
    """The run's copy in MLflow.

    uri: the server's address; null takes MLFLOW_TRACKING_URI, or else a file in the folder of all runs. experiment: the
    experiment's name there.
    """

    uri: str | None = None
    experiment: str = "vlrl"
