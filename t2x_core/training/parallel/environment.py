"""The processes as Lightning sees them; by itself it would read the variables of launchers."""

from __future__ import annotations

from lightning.fabric.plugins.environments import ClusterEnvironment

from t2x_core.training.parallel.launch import Launch


class Environment(ClusterEnvironment):
    """The ranks as they are: all started, and connected."""

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.launch.address

    @property
    def main_port(self) -> int:
        return self.launch.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.launch.ranks or 1

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        return self.launch.local_rank

    def node_rank(self) -> int:
        return self.launch.node
