"""A Ray cluster of this machine: a head without CPUs and two nodes with one each, until stdin ends.

Prints the head's address. `lose` on stdin kills a node with all its processes, `add` starts another; each is answered.
"""

from __future__ import annotations

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20}


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(**NODE, num_cpus=1) for _ in range(2)]
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "lose":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            else:
                nodes.append(cluster.add_node(**NODE, num_cpus=1))
            print(line.strip(), flush=True)
    finally:
        cluster.shutdown()


main()
